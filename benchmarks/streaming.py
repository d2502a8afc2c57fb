"""Time and memory of a streamed prediction against the number of spots.

    DEEPSPOT_DATA=../shared/data python benchmarks/streaming.py [--quick]

Slides are mosaics of a real section, written as pyramidal TIFFs and opened with OpenSlide. Each number of spots runs
in a process of its own. Model, encoder and libraries are loaded and used once on a few spots; what it holds then is
the base. Reported is the peak of resident memory above it (VmHWM, reset before) while a slide is predicted to disk. Two
encoders: the embedded one, without sub-spots (with them, the tenfold slide would take an hour on this CPU), and mean
colors of sub-tiles, projected to as many numbers, with sub-spots and up to ninety times as many spots: everything but
the encoder. The largest slide is that of Visium HD in bins of 16 µm, with a tile of 55 µm around each. Neighbors are
those of the embedded model: the nearest eight within 301 µm, where bins of 16 µm have a thousand.
Seconds are of a shared machine. Writes benchmarks/results/streaming.md; with `--quick` the two smallest slides of the
cheap encoder, and nothing is written.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import deepspot as ds
from deepspot._spatial.geometry import NeighborRule

MPP, SECTION = 0.69, "her2st/C2.jpg"
DISTANCE_UM = 50.0
BINS_UM = 16.0
CHEAP = "mean colors"
# Spots, and how far they are apart in µm.
RUNS = {
    "lite0": ((800, DISTANCE_UM), (8_000, DISTANCE_UM)),
    CHEAP: ((2_000, DISTANCE_UM), (20_000, DISTANCE_UM), (20_000, BINS_UM), (187_000, BINS_UM)),
}
NEIGHBORS = NeighborRule(reach=301, cap=8)
OUT = Path(__file__).parent / "results" / "streaming.md"


class MeanColors:
    """Mean colors of 6 × 6 parts of a tile, projected to as many numbers as the embedded encoder gives."""

    def __init__(self) -> None:
        self.card = ds.encoders.EncoderCard(name="mean_colors", dim=1312, input_px=60)
        self.fingerprint = "1"
        self.axes = np.random.default_rng(0).normal(size=(108, 1312)).astype(np.float32) / 10

    def to(self, device: object) -> MeanColors:
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        step = max(tiles.shape[1] // 6, 1)
        small = tiles[:, step // 2 :: step, step // 2 :: step][:, :6, :6].astype(np.float32) / 255
        return small.reshape(len(tiles), -1)[:, :108] @ self.axes[: small[0].size]


def main(quick: bool) -> None:
    lines = [
        "| encoder | spots | every | genes | s for 1,000 spots | peak above the loaded process, MB | to the first |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    runs = {CHEAP: RUNS[CHEAP][:2]} if quick else RUNS
    with tempfile.TemporaryDirectory(dir=os.environ.get("DEEPSPOT_CACHE")) as name:
        for encoder, sizes in runs.items():
            first = None
            for n, distance in sizes:
                result = measure(encoder, n, Path(name), distance)
                first = first or result["peak"]
                lines.append(
                    f"| {encoder} | {result['spots']:,} | {distance:g} µm | {result['genes']:,} | "
                    f"{1e3 * result['seconds'] / result['spots']:.2f} | {result['peak']:.0f} | "
                    f"{result['peak'] / first:.2f} |"
                )
                print(lines[-1], flush=True)
    if not quick:
        OUT.write_text("\n".join(lines) + "\n")


def measure(encoder: str, n: int, folder: Path, distance: float = DISTANCE_UM) -> dict[str, float]:
    """Run in a process of its own."""
    slide = folder / f"{n}_{distance:g}.tif"
    if not slide.exists():
        write_mosaic(slide, n, distance)
    command = [sys.executable, __file__, "--child", encoder, str(slide), str(distance)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_mosaic(path: Path, n: int, distance: float = DISTANCE_UM) -> None:
    """A square of tissue with room for so many spots, as a tiled pyramid."""
    Image.MAX_IMAGE_PIXELS = None
    section = np.asarray(Image.open(Path(os.environ["DEEPSPOT_DATA"]) / SECTION))[1500:4000, 2000:4500]
    side = int(np.sqrt(n) * distance / MPP) + 1
    repeats = -(-side // len(section))
    image = np.tile(section, (repeats, repeats, 1))[:side, :side]
    options = {"tile": (512, 512), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        level = 0
        while min(image.shape[:2]) > 256 or level == 0:
            factor = 1e4 / (MPP * 2**level)
            file.write(
                image, resolution=(factor, factor), resolutionunit="CENTIMETER", subfiletype=int(level > 0), **options
            )
            image, level = image[::2, ::2], level + 1


def child(encoder: str, slide: Path, distance: float) -> None:
    """Predict a slide to disk, and print what it took."""
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    ds.settings.embeddings_gb = 0  # they are as large as they are on disk, and gone afterwards
    ready = ds.encoders.get("lite0_stats") if encoder == "lite0" else MeanColors()
    model = make_model(ready, subspots=encoder != "lite0")
    with tempfile.TemporaryDirectory(dir=slide.parent) as name:
        folder = Path(name)
        predict(slide, model, ready, folder / "few.zarr", distance, few=50)
        Path("/proc/self/clear_refs").write_text("5")
        base, start = status("VmRSS"), time.perf_counter()
        spots = predict(slide, model, ready, folder / "all.zarr", distance)
        result = {
            "spots": spots,
            "genes": len(model.card.genes),
            "peak": status("VmHWM") - base,
            "seconds": time.perf_counter() - start,
        }
    print(json.dumps(result))


def predict(
    slide: Path, model: ds.models.DeepSpot, encoder: object, out: Path, distance: float, few: int | None = None
) -> int:
    sdata = ds.io.slide(slide)
    ds.pp.spots(sdata, diameter_um=55, pitch_um=distance, layout="square", tissue=None)
    if few is not None:
        sdata.shapes["spots"] = sdata.shapes["spots"].iloc[:few]
    ds.tl.predict(sdata, model, encoder=encoder, out=out)
    return len(sdata.shapes["spots"])


def make_model(encoder: ds.encoders.Encoder, *, subspots: bool, genes: int = 5_000) -> ds.models.DeepSpot:
    """A model of the make-up of the default; what its weights say does not matter here."""
    from deepspot._spatial.geometry import Geometry, TileGeometry

    rng = np.random.default_rng(0)
    spot = rng.normal(size=(64, encoder.card.dim)).astype(np.float32)
    from scipy.sparse import csr_matrix

    bags = ds.models.Bags(spot, np.repeat(spot[:, None], 9, axis=1), csr_matrix((64, 64), dtype=bool))
    context = ("spot", "subspots", "neighbors") if subspots else ("spot", "neighbors")
    model = ds.models.DeepSpot(
        network={"context": context}, training={"epochs": 1, "max_epochs": 1, "gate": "off"}, seed=0
    ).fit(bags, np.abs(rng.normal(size=(64, genes))).astype(np.float32))
    model.card.geometry = Geometry(tile=TileGeometry(tile_um=55, input_px=encoder.card.input_px), neighbors=NEIGHBORS)
    model.card.encoder, model.card.encoder_fingerprint = encoder.card, encoder.fingerprint
    return model


def status(field: str) -> float:
    """Of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
    else:
        main("--quick" in sys.argv)
