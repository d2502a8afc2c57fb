"""This package, LazySlide, and the published pipeline, on one slide, with one encoder, on one device.

    DEEPSPOT_DATA=../shared/data python benchmarks/side_by_side.py [--device cuda] [--spots 80] [--quick]

The slide is a part of section C5 as a pyramidal TIFF, with as much glass for a spot as in the whole section. All read
it from disk with OpenSlide: the same tiles of 100 µm on a square grid, with the embedded encoder, and an eighth of the
spots with a ViT-S/16 of random weights. Two tasks: 1,000 genes from spot tiles, 3 × 3 sub-spots and neighbors, and only
the features of the spot tiles, on four times as many spots. Time is from opening the file to the written result. Each
pipeline has a process of its own, with the same threads; libraries, encoder and model are loaded and used once on two
spots before. Pipelines take turns over three rounds, each time beginning with another one, and a ratio compares times
of one round. Memory is the peak of resident memory of the whole process (VmHWM, Linux) in the first round. Tiles are
counted when they enter the encoder. The last column is the largest difference to this package, in standard deviations
of a gene or feature: one model predicts from the features of every pipeline, those of the published one afterwards.
Writes benchmarks/results/side_by_side.md (on other devices than a CPU side_by_side_<device>.md); with `--quick` few
spots, one round, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import _pipelines
import numpy as np
import torch
from _pipelines import PIPELINES, Job
from _slides import pyramid
from gpu import EMBEDDED, make_encoder
from speed import processor, usable_cores
from streaming import make_model

import deepspot as ds
from deepspot._core.compute import choose_device
from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.transforms import microns_per_pixel

RESULTS = Path(__file__).parent / "results"
SECTION, ROUNDS, SPOTS, GENES = "C5", 3, 80, 1_000
ENCODERS = {EMBEDDED: 1, "ViT-S/16": 8}
"""Names, and by how many the number of spots is divided."""

FEATURES_OF = 4
"""On how many times as many spots only the tile of the spot is embedded."""

TITLES = {"genes": f"{GENES:,} genes", "features": "features of spot tiles"}
PACKAGES = ("deepspot", "lazyslide", "lazyslide-models", "wsidata", "openslide-python", "torch", "timm", "spatialdata")
Round = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    parser.add_argument("--spots", type=int, help=f"with the embedded encoder (default: {SPOTS}, or 8 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few spots and one round")
    asked = parser.parse_args()
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="spatialdata|contextlib|zarr")
    device, spots = choose_device(asked.device), asked.spots or (8 if asked.quick else SPOTS)
    lines = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("DEEPSPOT_CACHE")) as name:
        for job in plan(Path(name), str(device), spots):
            rounds = in_rounds(job, 1 if asked.quick else ROUNDS)
            lines += rows(job, rounds)
            print("\n".join(lines[-len(rounds[0]) :]), flush=True)
    threads = f"{rounds[0]['deepspot']['threads']:.0f} threads of torch on {usable_cores()} cores"
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {threads}"
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    about = f"Device {device} ({chip}); {platform.system()}, Python {platform.python_version()}, {versions}."
    command = " ".join(["python benchmarks/side_by_side.py", *sys.argv[1:]])
    text = "\n".join([*HEADER, *lines, "", f"{about} `{command}`", ""])
    print(text)
    if not asked.quick:
        (RESULTS / f"side_by_side{'' if device.type == 'cpu' else f'_{device.type}'}.md").write_text(text)


HEADER = (
    "| | pipeline | tiles for a spot | spots/s | CPU s for a spot | time ÷ deepspot, median (range) "
    "| memory, GB (before) | written, MB (features) | difference |",
    "|---|---|---|---|---|---|---|---|---|",
)


def plan(folder: Path, device: str, spots: int) -> Iterator[Job]:
    """Write slides and models, and place the tiles of each job in the middle of a slide."""
    section = ds.datasets.her2st(SECTION)
    (image_key,) = section.images
    pixels = pyramid_levels(section, image_key)[0].to_numpy().transpose(1, 2, 0)
    mpp, model = microns_per_pixel(section, image_key), ds.models.load()
    tiles = model.on_tiles(mpp=mpp)
    for task in TITLES:
        for encoder, fewer in ENCODERS.items():
            n = max(spots // fewer, 2) * (FEATURES_OF if task == "features" else 1)
            array = np.array([int(n**0.5), n // int(n**0.5)])
            # As much glass for a spot as in the whole section.
            share = min(1, (n / len(section.shapes["spots"])) ** 0.5)
            size = np.round(share * np.array(pixels.shape[:2])).astype(int)
            free = size - (array - 1) * tiles.stride_px - tiles.tile_px
            if free.min() < 0:
                raise SystemExit(f"{n} spots do not fit on the section: choose fewer `--spots`.")
            y, x = (np.array(pixels.shape[:2]) - size) // 2
            slide = folder / f"{n}.tiff"
            pyramid(slide, pixels[y : y + size[0], x : x + size[1]], mpp)
            shutil.copy(slide, f"{slide}.copy.tiff")
            yield Job(
                task=task,
                pipeline="",
                encoder=encoder,
                model=None if encoder == EMBEDDED else str(random_model(encoder, model, folder / f"model_{task}")),
                slide=str(slide),
                out=str(folder / "run"),
                device=device,
                mpp=mpp,
                corner=(int(free[1] // 2), int(free[0] // 2)),
                rows=int(array[0]),
                columns=int(array[1]),
                side=tiles.tile_px,
                stride=tiles.stride_px,
            )


def random_model(encoder: str, like: ds.models.DeepSpot, path: Path) -> Path:
    """Save a model of random weights, for tiles and neighbors as those of another."""
    model = make_model(make_encoder(encoder), subspots=True, genes=GENES)
    model.card.geometry = like.card.geometry
    model.save(path)
    return path


def in_rounds(job: Job, number: int) -> list[Round]:
    """Measure pipelines in turn, and compare what they find with what this package does."""
    rounds: list[Round] = []
    with ExitStack() as stack:
        processes = {name: stack.enter_context(started(replace(job, pipeline=name))) for name in PIPELINES[job.task]}
        names = list(processes)
        for first in range(number):
            found, measured = {}, {}
            for name in names[first:] + names[:first]:
                measured[name] = json.loads(answer(processes[name], "measure\n"))
                found[name] = np.load(f"{job.out}.npy")
                print(f"{job.task}, {job.encoder}, {name}: {measured[name]['seconds']:.1f} s", flush=True)
            for name, values in found.items():
                error = np.abs(values - found["deepspot"]).max() / found["deepspot"].std(axis=0).mean()
                measured[name]["difference"] = float(error)
            rounds.append(measured)
    return rounds


@contextmanager
def started(job: Job) -> Iterator[subprocess.Popen[str]]:
    """A process that has loaded and used everything once."""
    command = [sys.executable, _pipelines.__file__, json.dumps(asdict(job))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:  # which closes its input, and waits for its end
        answer(process)
        yield process


def answer(process: subprocess.Popen[str], asked: str = "") -> str:
    """Ask a process, and wait for its answer."""
    process.stdin.write(asked)
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        raise SystemExit("A pipeline failed: its error is above.")
    return line


def rows(job: Job, rounds: list[Round]) -> list[str]:
    """Return a row of the table for each pipeline."""
    n, lines = job.rows * job.columns, []
    title = f"{TITLES[job.task]}, {job.encoder}, {n} spots"
    for name in PIPELINES[job.task]:
        mine = {key: np.array([measured[name][key] for measured in rounds]) for key in rounds[0][name]}
        ratio = mine["seconds"] / [measured["deepspot"]["seconds"] for measured in rounds]
        # Of the first round: later ones start with what was not given back.
        peak, base, gpu = (mine[key][0] / 1e3 for key in ("peak", "base", "gpu"))
        written, features = (mine[key][0] / 1e6 for key in ("bytes", "features"))
        cells = [
            title,
            name,
            f"{np.median(mine['tiles']):.1f}",
            f"{n / np.median(mine['seconds']):.2f}",
            f"{np.median(mine['cpu']) / n:.3f}",
            f"{np.median(ratio):.2f}" + (f" ({ratio.min():.2f} to {ratio.max():.2f})" if len(ratio) > 1 else ""),
            f"{peak:.2f} ({base:.2f})" + (f", GPU {gpu:.2f}" if gpu else ""),
            f"{written:.2f} ({features:.2f})",
            "" if name == "deepspot" else f"{mine['difference'].max():.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
