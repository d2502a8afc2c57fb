"""The command line: ``deepspot demo``, ``predict``, ``report``, ``cohort`` and ``convert``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from deepspot.errors import DeepSpotError

from ._core.logging import without_noise
from ._core.settings import RUNTIMES, settings

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130
RUNTIME = "what computes the encoder on a CPU (default: %(default)s)"
MODEL = "folder or hf:// address of a model (default: the embedded one)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments after the name of the program; by default those of the process.

    Returns
    -------
    0; 1 if slides of a cohort failed; 2 after an error that the user can do something about, which is printed in one
    line; 130 if it was interrupted.
    """
    arguments = _parser().parse_args(argv)
    arguments.command = shlex.join(["deepspot", *(sys.argv[1:] if argv is None else argv)])
    try:
        settings.runtime = vars(arguments).get("runtime", settings.runtime)
        with without_noise():
            return arguments.run(arguments) or 0
    except (DeepSpotError, OSError) as error:  # any other error is a bug, whose traceback is needed
        print(f"deepspot: {_one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("deepspot: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepspot", description="Predict spatial transcriptomics from H&E images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on some slides, predict an unseen one, write a report")
    demo.add_argument("--out", type=Path, default=Path("deepspot_demo"), help="folder to write (default: %(default)s)")
    demo.add_argument("--toy", action="store_true", help="synthetic slides, even where real ones can be had")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    demo.set_defaults(run=_demo)

    predict = commands.add_parser("predict", help="predict the genes of a slide from its H&E image")
    predict.add_argument("slide", type=Path, metavar="SLIDE.zarr", help="a SpatialData with an image and spots")
    predict.add_argument("--model", metavar="BUNDLE", help=MODEL)
    predict.add_argument("--out", type=Path, metavar="OUT.zarr", help="write a copy instead of adding to the slide")
    predict.add_argument("--image-key", help="image, if there are several")
    predict.add_argument("--shapes-key", help="spots, if there are several")
    predict.add_argument("--key-added", help="name of the new table (default: deepspot_<shapes>)")
    predict.add_argument("--runtime", choices=RUNTIMES, default=settings.runtime, help=RUNTIME)
    predict.set_defaults(run=_predict)

    report = commands.add_parser(
        "report", help="all in one: read a slide, predict, find markers, gene sets and pathways, write a report"
    )
    report.add_argument("slide", type=Path, metavar="SLIDE", help="SpatialData .zarr, Space Ranger folder or .h5ad")
    report.add_argument("--out", type=Path, required=True, metavar="REPORT.html", help="the report to write")
    report.add_argument(
        "--model", metavar="BUNDLE", help="likewise (default: the prediction there is, else the embedded model)"
    )
    report.add_argument("--groupby", metavar="COLUMN", help="groups of spots (default: those there are, else clusters)")
    report.add_argument("--gene-sets", metavar="GMT", help="file, or library of Enrichr (default: the paper's, online)")
    report.add_argument("--net", type=Path, metavar="CSV", help="weights of pathways (default: PROGENy, online)")
    report.add_argument("--genes", type=lambda text: text.split(","), metavar="A,B", help="genes to draw")
    report.add_argument(
        "--image", type=Path, metavar="FILE", help="full-resolution image, for an .h5ad or Space Ranger"
    )
    report.add_argument("--mpp", type=float, metavar="µM", help="its µm per pixel, if the slide does not tell")
    report.add_argument("--image-key", help="image, if there are several")
    report.add_argument("--shapes-key", help="spots, if there are several")
    report.add_argument("--table-key", help="measured genes, if there are several tables")
    report.add_argument("--save", type=Path, metavar="OUT.zarr", help="also write the slide with all results")
    report.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    report.set_defaults(run=_report)

    cohort = commands.add_parser("cohort", help="predict all slides of a list, here or on a Dask cluster")
    cohort.add_argument(
        "manifest", type=Path, metavar="MANIFEST.csv", help="columns path, patient; optional slide, mpp, …"
    )
    cohort.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for results; goes on where it was"
    )
    cohort.add_argument("--model", metavar="BUNDLE", help=MODEL)
    where = cohort.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler to run on (default: this process)")
    where.add_argument("--workers", type=_count, metavar="N", help="so many worker processes on this machine")
    cohort.add_argument("--diameter-um", type=float, metavar="µM", help="of spots (default: as the model was trained)")
    cohort.add_argument("--pitch-um", type=float, metavar="µM", help="between spots (default: likewise)")
    cohort.add_argument("--layout", choices=("square", "hexagonal"), default="square", help="(default: %(default)s)")
    rules = ("brightness", "saturation", "all")
    cohort.add_argument(
        "--tissue", choices=rules, default=rules[0], help="rule for what is tissue (default: %(default)s)"
    )
    cohort.add_argument("--full", action="store_true", help="all bits of float32 (default: the precision of float16)")
    cohort.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    cohort.add_argument("--runtime", choices=RUNTIMES, default=settings.runtime, help=RUNTIME)
    cohort.add_argument("--batch-size", type=_count, metavar="N", help="tiles that go through the encoder at once")
    cohort.add_argument("--overwrite", action="store_true", help="replace slides that were made otherwise")
    cohort.set_defaults(run=_cohort)

    convert = commands.add_parser(
        "convert", help="turn a checkpoint of the paper's authors into a model, without running anything in it"
    )
    convert.add_argument("source", type=Path, metavar="FOLDER", help="with final_model.pkl, its .yaml and its genes")
    convert.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    convert.add_argument("--tile-um", type=float, metavar="µM", help="side of the spot tile (default: Visium's 55)")
    convert.add_argument("--encoder", metavar="NAME", help="of the encoder (default: as the .yaml says)")
    convert.add_argument("--name", help="of the model (default: that of the folder)")
    convert.add_argument("--tissue", default="", help="for its card")
    convert.add_argument("--license", help="for its card (default: where to look it up)")
    convert.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    convert.set_defaults(run=_convert)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    import matplotlib

    from ._demo.run import run_demo

    matplotlib.use("Agg")  # figures go to files; a window would stop the run
    print(run_demo(arguments.out, toy=arguments.toy, seed=arguments.seed)["summary"])


def _predict(arguments: argparse.Namespace) -> None:
    from spatialdata import read_zarr

    from . import tl

    slide, out = arguments.slide, arguments.out
    if not slide.is_dir():
        raise FileNotFoundError(f"There is no SpatialData folder {str(slide)!r}. Pass the path of a .zarr.")
    if out is not None and out.exists():
        raise FileExistsError(f"{str(out)!r} exists. Choose another name with --out.")
    sdata = read_zarr(slide)
    before = set(sdata.tables)
    tl.predict(
        sdata,
        arguments.model,
        image_key=arguments.image_key,
        shapes_key=arguments.shapes_key,
        key_added=arguments.key_added,
    )
    added = [key for key in sdata.tables if key not in before]
    if out is not None:
        sdata.write(out)
    else:
        sdata.write_element(added)
    print(f"Wrote tables {', '.join(added)} to {out or slide}.")


def _report(arguments: argparse.Namespace) -> None:
    import matplotlib

    from ._workflow.run import run_report

    matplotlib.use("Agg")
    print(run_report(**{key: value for key, value in vars(arguments).items() if key != "run"}))


def _cohort(arguments: argparse.Namespace) -> int:
    from . import cohort
    from .cohort._run.dask_runner import local_workers

    with local_workers(arguments.workers) as workers:
        runs = cohort.run(
            arguments.manifest,
            arguments.model,
            arguments.out,
            client=workers or arguments.scheduler,
            diameter_um=arguments.diameter_um,
            pitch_um=arguments.pitch_um,
            layout=arguments.layout,
            tissue=None if arguments.tissue == "all" else arguments.tissue,
            half=not arguments.full,
            device=arguments.device,
            batch_size=arguments.batch_size,
            overwrite=arguments.overwrite,
        )
    failed = int((runs["status"] == "failed").sum())
    print(f"{len(runs) - failed} of {len(runs)} slides are done. See {arguments.out / 'runs.csv'}.")
    return SOME_FAILED if failed else 0


def _convert(arguments: argparse.Namespace) -> None:
    from . import models

    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{str(arguments.out)!r} exists. Pass --overwrite, or choose another name with --out.")
    model = models.convert_legacy(
        arguments.source,
        tile_um=arguments.tile_um,
        encoder=arguments.encoder,
        name=arguments.name,
        tissue=arguments.tissue,
        license=arguments.license,
    )
    model.save(arguments.out, overwrite=arguments.overwrite)
    print(f"Wrote {arguments.out}.")


def _one_line(error: BaseException) -> str:
    # The text of an OSError may carry a number.
    text = error.args[0] if len(error.args) == 1 else error
    line = " ".join([str(text), *getattr(error, "__notes__", [])]).replace("\n", " ")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)  # files name themselves
