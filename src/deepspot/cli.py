"""Command line: ``deepspot demo``, ``predict``, ``report``, ``view``, ``train``, ``cohort`` and others."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepspot.errors import DeepSpotError, InputError

from ._core.atomic import replace_folder
from ._core.keys import SLIDE as WHOLE_SLIDE
from ._core.logging import count_of, without_noise
from ._core.settings import RUNTIMES, settings
from ._workflow.console import console_log, name_options, one_line, wrap

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130
MAX_SHOWN = 10
SCALE = ("mpp", "pitch_um", "diameter_um")
READ = (
    *(*SCALE, "image_key", "shapes_key"),
    *("image", "image_scale", "bin_um", "alignment_file", "library_id", "gene_id_key"),
)
"""Options of the file or folder of a slide."""
NOT_OPTIONS = {"run", "command", "slide", "manifest", "source"}

RUNTIME = "library that computes the encoder on a CPU (default: %(default)s)"
SLIDE = "whole slide image, SpatialData .zarr, folder of Space Ranger (Visium, Visium HD) or Xenium, or .h5ad"
MODEL = "folder, name or hf:// address of a model (default: the embedded model)"
IMAGE_KEY, SHAPES_KEY = "image; needed only if there are several", "spots; needed only if there are several"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments after the name of the program. Default: those of the process.

    Returns
    -------
    0 on success; 1 if slides of a cohort failed; 2 after an error that the user can fix, with a message on stderr; 130
    after an interrupt.
    """
    arguments = _parser().parse_args(argv)
    arguments.command = shlex.join(["deepspot", *(sys.argv[1:] if argv is None else argv)])
    options = set(vars(arguments)) - NOT_OPTIONS
    try:
        settings.runtime = vars(arguments).get("runtime", settings.runtime)
        with without_noise(), console_log(options):
            return arguments.run(arguments) or 0
    except (DeepSpotError, OSError) as error:  # any other error is a bug and needs its traceback
        print(wrap(f"deepspot: {name_options(one_line(error), options)}"), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("deepspot: interrupted", file=sys.stderr)
        return INTERRUPTED


def _path(text: str) -> Path:
    return Path(text).expanduser()  # a shell does not expand `--image=~/slide.tif`


def _genes(text: str) -> int | list[str]:
    return int(text) if text.isdecimal() else text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepspot", description="Predict spatial transcriptomics from H&E images.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('deepspot')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on some slides, predict another one, write a report")
    demo.set_defaults(run=_demo)
    option = demo.add_argument
    option("--out", type=_path, default=Path("deepspot_demo"), help="output folder (default: %(default)s)")
    option("--toy", action="store_true", help="use synthetic slides")
    option("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    option("--runtime", choices=RUNTIMES, default=settings.runtime, help=RUNTIME)

    predict = commands.add_parser("predict", help="predict gene expression of a slide from its H&E image")
    predict.set_defaults(run=_predict)
    option = predict.add_argument
    option("slide", type=_path, metavar="SLIDE", help=SLIDE)
    option("--model", metavar="BUNDLE", help=MODEL)
    out = "write a copy instead of adding to the .zarr; needed for other slides"
    option("--out", type=_path, metavar="OUT.zarr", help=out)
    _add_slide(predict)
    option("--coordinate-system", help="system that relates image and spots, if several disagree")
    option("--key-added", help="name of the new table (default: deepspot_<shapes>)")
    _add_device(predict)
    option("--overwrite", action="store_true", help="replace an existing OUT.zarr, or table of that name")

    report = commands.add_parser("report", help="read a slide, predict and analyze it, write a report")
    report.set_defaults(run=_report)
    option = report.add_argument
    option("slide", type=_path, metavar="SLIDE", help=f"{SLIDE}; the output folder of a cohort for its report")
    option("--out", type=_path, required=True, metavar="REPORT.html", help="report to write")
    option("--model", metavar="BUNDLE", help="model (default: use an existing prediction, else the embedded model)")
    option("--groupby", metavar="COLUMN", help="groups of spots (default: existing ones, else clusters)")
    option("--gene-sets", metavar="GMT", help="file, or Enrichr library (default: those of the paper, online)")
    option("--net", type=_path, metavar="CSV", help="weights of pathways (default: PROGENy, online)")
    option("--genes", type=_genes, default=4, metavar="A,B", help="genes to draw, or how many (default: %(default)s)")
    _add_slide(report)
    option("--table-key", help="table of measured genes; needed only if there are several")
    option("--layer", help="its layer with raw counts (default: X)")
    option("--save", type=_path, metavar="OUT.zarr", help="also write the slide with all results")
    _add_device(report)
    option("--overwrite", action="store_true", help="replace an existing report")

    export = commands.add_parser("export", help="write predicted genes for QuPath, Seurat, scanpy or as a table")
    export.set_defaults(run=_export)
    option = export.add_argument
    option("slide", type=_path, metavar="SLIDE", help="SpatialData .zarr with predicted genes")
    option("out", type=_path, metavar="OUT", help=".geojson, .csv, .parquet, .h5ad or .h5; a folder with --format 10x")
    option("--format", choices=("geojson", "csv", "parquet", "h5ad", "10x", "10x_h5"), help="default: by the ending")
    option("--table-key", help="table to write (default: the predicted genes)")
    option("--layer", help="layer to write (default: X)")
    option("--genes", type=lambda text: text.split(","), metavar="A,B", help="genes to write (default: all)")
    option("--groupby", metavar="COLUMN", help="groups that become classes in QuPath")
    option("--object-type", choices=("detection", "cell", "annotation"), help="objects in QuPath (default: by shapes)")
    option("--image-key", help=IMAGE_KEY)
    option("--shapes-key", help=SHAPES_KEY)
    option("--coordinate-system", help="system that relates image and spots, if several disagree")
    option("--overwrite", action="store_true", help="replace an existing file, or a folder that was exported")

    view = commands.add_parser("view", help="read a slide, predict it if needed, write an interactive viewer")
    view.set_defaults(run=_view)
    option = view.add_argument
    option("slide", type=_path, metavar="SLIDE", help=SLIDE)
    option("--out", type=_path, required=True, metavar="VIEW.html", help="viewer to write")
    option("--model", metavar="BUNDLE", help="model (default: use an existing prediction, else the embedded model)")
    option("--groupby", metavar="COLUMN", help="groups of spots (default: existing ones)")
    option("--genes", type=_genes, default=1000, metavar="A,B", help="genes, or how many (default: %(default)s)")
    _add_device(view)
    option("--max-mb", type=float, default=100, metavar="MB", help="size of the file (default: %(default)s)")
    option("--no-folder", dest="folder", action="store_false", help="leave out what does not fit; no folder beside it")
    _add_slide(view)
    option("--table-key", help="table of measured genes; needed only if there are several")
    option("--layer", help="its layer with raw counts (default: X)")
    option("--overwrite", action="store_true", help="replace an existing viewer")

    cohort = commands.add_parser("cohort", help="predict the slides of a manifest, locally or on a Dask cluster")
    cohort.set_defaults(run=_cohort)
    option = cohort.add_argument
    option("manifest", type=_path, metavar="MANIFEST.csv", help="columns path, patient; optional slide, mpp, …")
    option("--out", type=_path, required=True, metavar="DIR", help="output folder; an interrupted run is resumed")
    option("--model", metavar="BUNDLE", help=MODEL)
    where = cohort.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler (default: run in this process)")
    where.add_argument("--workers", type=_count, metavar="N", help="number of local worker processes")
    one = "one frozen section for each tissue sample (default: all sections)"
    option("--sections", choices=("top", "largest"), help=one)
    option("--diameter-um", type=float, metavar="UM", help="diameter of spots (default: as in training)")
    option("--pitch-um", type=float, metavar="UM", help="distance between spots (default: as in training)")
    option("--layout", choices=("square", "hexagonal"), default="square", help="grid (default: %(default)s)")
    rules = ("brightness", "saturation", "all")
    option("--tissue", choices=rules, default=rules[0], help="rule that detects tissue (default: %(default)s)")
    bad = "spots that are out of focus, folded or inked (default: not looked for)"
    option("--artifacts", choices=("exclude", "flag"), help=bad)
    option("--rounded", action="store_true", help="round to the precision of float16, to save disk space")
    _add_device(cohort)
    option("--overwrite", action="store_true", help="replace slides that were predicted differently")

    train = commands.add_parser("train", help="train a model on the measured slides of a manifest")
    train.set_defaults(run=_train)
    option = train.add_argument
    columns = "columns path (.zarr, folder or .h5ad), patient; image for folders and .h5ad; optional slide, mpp, …"
    option("manifest", type=_path, metavar="MANIFEST.csv", help=columns)
    option("--out", type=_path, required=True, metavar="BUNDLE", help="output folder")
    option("--genes", type=_genes, default=5000, metavar="A,B", help="genes, or how many variable ones (default: 5000)")
    option("--min-detected", type=float, default=0.0, metavar="SHARE", help="least share of spots with such a gene")
    option("--encoder", metavar="NAME", help="encoder (default: the embedded one)")
    option("--preset", default="default", metavar="NAME", help="default, paper, published, cell_sum, … (see the docs)")
    for name, what in (("layer", "layer with raw counts (default: X)"), ("table-key", "table of measured genes")):
        option(f"--{name}", help=what)
    option("--image-key", help=IMAGE_KEY)
    option("--shapes-key", help=SHAPES_KEY)
    for name in ("name", "tissue", "license"):
        option(f"--{name}", help=f"{name}, for the model card")
    option("--seed", type=int, help="random seed (default: that of the settings)")
    _add_device(train)
    option("--overwrite", action="store_true", help="replace an existing model")

    convert = commands.add_parser("convert", help="convert a checkpoint of the paper's authors, without executing it")
    convert.set_defaults(run=_convert)
    option = convert.add_argument
    option("source", type=_path, metavar="FOLDER", help="contains final_model.pkl, its .yaml and the list of genes")
    option("--out", type=_path, required=True, metavar="BUNDLE", help="output folder")
    option("--tile-um", type=float, metavar="UM", help="side of the spot tile (default: 55, as in Visium)")
    option("--encoder", metavar="NAME", help="name of the encoder (default: that of the .yaml)")
    option("--name", help="name of the model (default: that of the folder)")
    option("--tissue", default="", help="tissue, for the model card")
    option("--license", help="license, for the model card (default: where to find it)")
    option("--overwrite", action="store_true", help="replace an existing model")
    return parser


def _add_slide(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    image = "full-resolution image of an .h5ad or a folder, or of a predicted slide that was moved, relative to the "
    image += "working directory"
    option("--image", type=_path, metavar="FILE", help=image)
    option("--image-scale", type=float, metavar="X", help="pixels of that image per full-resolution pixel (default: 1)")
    option("--bin-um", type=_count, metavar="UM", help="side of the bins of Visium HD (default: 16)")
    option("--alignment-file", type=_path, metavar="FILE", help="its matrix for Xenium (default: next to the image)")
    option("--library-id", metavar="NAME", help="library of an .h5ad that the image shows, if there are several")
    option("--gene-id-key", metavar="COLUMN", help="gene names of an .h5ad or a folder")
    option("--mpp", type=float, metavar="UM", help="µm per pixel of the image, if the slide does not state it")
    option("--pitch-um", type=float, metavar="UM", help="distance between spots, to compute the µm per pixel")
    option("--diameter-um", type=float, metavar="UM", help="diameter of the tissue that a spot measures")
    option("--image-key", help=IMAGE_KEY)
    option("--shapes-key", help=SHAPES_KEY)


def _add_device(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("--device", help="cpu, cuda, cuda:1, mps (default: the fastest available)")
    option("--runtime", choices=RUNTIMES, default=settings.runtime, help=RUNTIME)
    option("--batch-size", type=_count, metavar="N", help="number of tiles per batch of the encoder")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    import matplotlib

    from ._demo.run import run_demo

    matplotlib.use("Agg")  # a window would block the run
    print(wrap(run_demo(arguments.out, toy=arguments.toy, seed=arguments.seed)["summary"]))


def _predict(arguments: argparse.Namespace) -> None:
    from . import tl
    from ._workflow.steps import is_store, is_without_image, read_slide

    slide, out = arguments.slide, arguments.out
    if not slide.exists():
        raise FileNotFoundError(f"There is no slide {str(slide)!r}.")
    if out is None and not is_store(slide):
        raise InputError(f"{str(slide)!r} is no SpatialData (.zarr) to add to. Pass a new one as --out.")
    if is_store(slide) and is_without_image(slide):
        raise InputError(
            f"{str(slide)!r} is the prediction of a whole slide without its image. Predict the image again, with --out."
        )
    if out is not None and out.exists():
        if not arguments.overwrite:
            raise FileExistsError(f"{str(out)!r} exists. Pass --overwrite, or choose another name with --out.")
        if not is_store(out) or out.resolve() == slide.resolve():
            what = "the slide itself" if is_store(out) else "no SpatialData"
            raise InputError(f"{str(out)!r} is {what} and is not replaced. Choose another name with --out.")
    sdata = read_slide(slide, model=arguments.model, **{name: vars(arguments)[name] for name in READ})
    before = dict(sdata.tables)
    names = ("image_key", "shapes_key", "key_added", "coordinate_system", "overwrite")
    streamed = WHOLE_SLIDE in sdata.attrs and not before  # a whole slide, whose image is not copied
    options = {name: vars(arguments)[name] for name in (*names, "device", "batch_size")}
    tl.predict(sdata, arguments.model, out=out if streamed else None, **options)
    added = [key for key, table in sdata.tables.items() if table is not before.get(key)]
    if out is None:
        for key in set(added) & set(before):
            sdata.delete_element_from_disk(key)
        sdata.write_element(added)
    elif not streamed and out.exists():
        with replace_folder(out, overwrite=True) as draft:
            sdata.write(draft)
    elif not streamed:
        sdata.write(out)
    print(wrap(f"Wrote tables {', '.join(added)} to {out or slide}."))
    if streamed:
        print(wrap(f"To look at it: {shlex.join(['deepspot', 'report', str(out), '--out', f'{out.stem}.html'])}"))


def _report(arguments: argparse.Namespace) -> None:
    import matplotlib

    from ._report.cohort import report_cohort
    from ._workflow.run import run_report
    from .cohort._run.folder import Folder

    matplotlib.use("Agg")
    if Folder(arguments.slide).runs.is_file():
        report_cohort(arguments.slide, arguments.out, **_cohort_options(arguments))
        return
    run_report(**{key: value for key, value in vars(arguments).items() if key not in ("run", "runtime")})


def _cohort_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the report of a cohort; raise if others are given."""
    used = {"run", "slide", "out", "genes", "runtime", "command", "overwrite"}
    if given := [name for name, value in vars(arguments).items() if name not in used and value is not None]:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"{flags} cannot be given for the report of a cohort, whose slides are predicted already.")
    genes = arguments.genes if isinstance(arguments.genes, list) else [None]
    if len(genes) > 1:
        raise InputError(f"The report of a cohort draws one gene, got {genes}.")
    return {"gene": genes[0], "command": arguments.command, "overwrite": arguments.overwrite}


def _export(arguments: argparse.Namespace) -> None:
    from . import io
    from ._workflow.steps import is_store, read_slide

    if not arguments.slide.exists():
        raise FileNotFoundError(f"There is no slide {str(arguments.slide)!r}.")
    if not is_store(arguments.slide):
        raise InputError(
            f"{str(arguments.slide)!r} is no SpatialData (.zarr). Write one with `deepspot predict` first."
        )
    keys = ("table_key", "image_key", "shapes_key", "coordinate_system")
    names = (*keys, "format", "layer", "genes", "groupby", "object_type", "overwrite")
    sdata = read_slide(arguments.slide)
    io.export(sdata, arguments.out, **{name: vars(arguments)[name] for name in names})


def _view(arguments: argparse.Namespace) -> None:
    from ._workflow.run import run_view

    options = {key: value for key, value in vars(arguments).items() if key not in ("run", "command", "runtime")}
    run_view(**options)


def _cohort(arguments: argparse.Namespace) -> int:
    from . import cohort
    from .cohort._run.attention import needs_attention
    from .cohort._run.dask_runner import local_workers

    names = (
        "sections",
        "diameter_um",
        "pitch_um",
        "layout",
        "artifacts",
        "rounded",
        "device",
        "batch_size",
        "overwrite",
    )
    with local_workers(arguments.workers) as workers:
        runs = cohort.run(
            arguments.manifest,
            arguments.model,
            arguments.out,
            client=workers or arguments.scheduler,
            tissue=None if arguments.tissue == "all" else arguments.tissue,
            **{name: vars(arguments)[name] for name in names},
        )
    failed, are = int((runs["status"] == "failed").sum()), "is" if len(runs) == 1 else "are"
    out = arguments.out
    print(wrap(f"{len(runs) - failed} of {count_of(len(runs), 'slide')} {are} done. See {out / 'runs.csv'}."))
    if reasons := needs_attention(runs):
        print(wrap(f"{count_of(len(reasons), 'slide')} to look at:"))
        for name, found in list(reasons.items())[:MAX_SHOWN]:
            print(wrap(f"  {name}: {'; '.join(found)}"))
        if len(reasons) > MAX_SHOWN:
            print(f"  and {len(reasons) - MAX_SHOWN} more")
    if failed < len(runs):
        print(wrap(f"Mean expression of each slide: {out / 'pseudobulk.h5ad'}. Predictions: {out / 'slides'}."))
        print(wrap(f"To look at them: {shlex.join(['deepspot', 'report', str(out), '--out', f'{out.name}.html'])}"))
    return SOME_FAILED if failed else 0


def _train(arguments: argparse.Namespace) -> None:
    from ._workflow.train import run_train

    def chosen(*names: str) -> dict[str, Any]:
        return {name: vars(arguments)[name] for name in names}

    options = chosen("genes", "min_detected", "encoder", "preset", "seed", "device", "batch_size")
    run_train(
        arguments.manifest,
        arguments.out,
        keys=chosen("layer", "table_key", "image_key", "shapes_key"),
        card=chosen("name", "tissue", "license"),
        overwrite=arguments.overwrite,
        **options,
    )


def _convert(arguments: argparse.Namespace) -> None:
    from . import models

    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{str(arguments.out)!r} exists. Pass --overwrite, or choose another name with --out.")
    names = ("tile_um", "encoder", "name", "tissue", "license")
    model = models.convert_legacy(arguments.source, **{name: vars(arguments)[name] for name in names})
    model.save(arguments.out, overwrite=arguments.overwrite)
    print(wrap(f"Wrote {arguments.out}."))
