"""Time and memory of a prediction of cells and bins against their number.

    DEEPSPOT_DATA=../shared/data python benchmarks/cells_cost.py FOLDER

The image is a mosaic of a real section, 7 mm wide, in a zarr store. On it are cells at random (6,944 per mm²) or bins
of 8 µm, around the top left corner, and spots, to which cells and bins are scaled. The embedded model predicts them in
memory or to disk (`out=`); each row is a process of its own, without cached embeddings. The encoder takes most of the
time, in proportion to the tiles, whatever their number. It is therefore measured on the smallest row alone, and in the
others it is replaced by mean colors of the tile, projected to as many numbers. All else is as it is.

Time is that of the processor, of all threads of the process, while `ds.tl.predict` runs, which depends less on other
users of the machine than seconds do. Memory is the highest resident memory of the process (VmHWM; the value of
`getrusage` contains the process that started it), and nothing is subtracted: libraries, model and shapes are part of
it. FOLDER holds the image and finished rows, so that an interrupted run continues. Writes
benchmarks/results/cells_cost.md and .png.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import deepspot as ds

RESULTS = Path(__file__).parent / "results"
SECTION, MPP, SIDE_UM = "her2st/C2.jpg", 0.69, 7000.0
CELLS_PER_UM2, BIN_UM, CELL_UM = 6944e-6, 8.0, 8.0
# Encoder, places, their number, `resolution`, and whether they are streamed.
ROWS = [
    ("embedded", "cells", 500, "cell", True),
    *[("mean colors", "cells", n, "cell", False) for n in (10_000, 100_000)],
    *[("mean colors", "cells", n, "cell", True) for n in (10_000, 30_000, 100_000)],
    *[("mean colors", "bins", n, "cell", True) for n in (10_000, 500_000)],
    ("mean colors", "bins", 10_000, "spot", True),
]


class MeanColors:
    """Mean colors of 6 × 6 parts of a tile in place of another encoder, with its card and as many numbers."""

    def __init__(self, other: ds.encoders.Encoder) -> None:
        self.card, self.fingerprint = other.card, other.fingerprint
        self.axes = np.random.default_rng(0).normal(size=(108, other.card.dim)).astype(np.float32) / 10

    def to(self, device: object) -> MeanColors:
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        step = max(tiles.shape[1] // 6, 1)
        small = tiles[:, step // 2 :: step, step // 2 :: step][:, :6, :6].astype(np.float32) / 255
        return small.reshape(len(tiles), -1) @ self.axes


def main(folder: Path) -> None:
    write_image(folder / "image.zarr")
    results = []
    for row in ROWS:
        kept = folder / f"{'_'.join(map(str, row))}.json".replace(" ", "_")
        if not kept.exists():
            command = [sys.executable, __file__, str(folder), "--child", json.dumps(row)]
            kept.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        results.append(dict(zip(("encoder", "places", "n", "resolution", "streamed"), row, strict=True)))
        results[-1] |= json.loads(kept.read_text())
        print(results[-1], flush=True)
    real, *others = results
    tile_ms = 1e3 * real["encoder_s"] / real["tiles"]
    text = [*table(others, tile_ms), "", f"One tile takes the embedded encoder {tile_ms:.1f} ms of one core."]
    (RESULTS / "cells_cost.md").write_text("\n".join(text) + "\n")
    draw(others, RESULTS / "cells_cost.png")


def table(results: list[dict[str, Any]], tile_ms: float) -> list[str]:
    titles = ["places", "`resolution`", "predicted", "s per 1,000 without the encoder", "to the first"]
    titles += ["neighbors", "network", "share of the encoder, if it is the embedded one", "memory (GB)"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    first: dict[tuple[str, str, bool], float] = {}
    for row in results:
        rest = row["seconds"] - row["encoder_s"]
        each = 1e3 * rest / row["n"]
        of = first.setdefault((row["places"], row["resolution"], row["streamed"]), each)
        embedding = tile_ms * row["tiles"] / 1e3
        cells = [
            f"{row['n']:,} {row['places']}",
            f'`"{row["resolution"]}"`',
            "to disk" if row["streamed"] else "in memory",
        ]
        cells += [
            f"{each:.2f}",
            f"{each / of:.2f}",
            f"{row['neighbors_s'] / rest:.1%}",
            f"{row['network_s'] / rest:.0%}",
        ]
        cells += [f"{embedding / (embedding + rest):.0%}", f"{row['memory']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        name = f"{row['places']}, `{row['resolution']}`, {'to disk' if row['streamed'] else 'in memory'}"
        lines.setdefault(name.replace("`", '"'), []).append(row)
    for name, rows in lines.items():
        if len(rows) == 1:
            continue
        n = [row["n"] for row in rows]
        axes[0].plot(n, [row["seconds"] - row["encoder_s"] for row in rows], "o-", ms=4, label=name)
        axes[1].plot(n, [row["memory"] for row in rows], "o-", ms=4)
    axes[0].set(title="Processor time without the encoder (s)", xscale="log", yscale="log")
    axes[1].set(title="Highest memory of the process (GB)", ylim=(0, None))
    axes[1].locator_params(axis="x", nbins=3)
    axes[1].xaxis.set_major_formatter("{x:,.0f}")
    for ax in axes:
        ax.set_xlabel("cells or bins")
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def write_image(path: Path) -> None:
    """Write a square of tissue, without a pyramid."""
    from PIL import Image
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel

    if path.exists():
        return
    Image.MAX_IMAGE_PIXELS = None
    section = np.asarray(Image.open(Path(os.environ["DEEPSPOT_DATA"]) / SECTION))[1500:4000, 2000:4500]
    side = int(SIDE_UM / MPP)
    repeats = -(-side // len(section))
    pixels = np.tile(section, (repeats, repeats, 1))[:side, :side]
    image = Image2DModel.parse(pixels, dims=("y", "x", "c"), c_coords=["r", "g", "b"], chunks=(3, 512, 512))
    sdata = SpatialData(images={"slide": image})
    ds.pp.set_scale(sdata, mpp=MPP)
    sdata.write(path)


def make_slide(folder: Path, places: str, n: int) -> Any:
    """Return the image with so many places and the spots of the embedded model among them."""
    import shapely
    from geopandas import GeoDataFrame
    from spatialdata import read_zarr
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Scale

    if places == "cells":
        side = (n / CELLS_PER_UM2) ** 0.5
        centers = np.random.default_rng(0).uniform(0, side, (n, 2))
        outlines = shapely.buffer(shapely.points(centers), CELL_UM / 2, quad_segs=2)
    else:
        columns = int(np.ceil(n**0.5))
        x, y = BIN_UM * np.stack(np.divmod(np.arange(n), columns))
        side, outlines = columns * BIN_UM, shapely.box(x, y, x + BIN_UM, y + BIN_UM)
    sdata = read_zarr(folder / "image.zarr")
    spots = np.stack(np.meshgrid(*[np.arange(100.0, side, 200.0)] * 2), axis=-1).reshape(-1, 2)
    to_microns = {"microns": Scale([1.0, 1.0], axes=("x", "y"))}
    circles = ShapesModel.parse(spots, geometry=0, radius=50, transformations=to_microns)
    circles["diameter_um"] = 100.0
    sdata.shapes["spots"] = circles
    sdata.shapes[places] = ShapesModel.parse(GeoDataFrame(geometry=outlines), transformations=to_microns)
    return sdata


def child(folder: Path, encoder: str, places: str, n: int, resolution: str, streamed: bool) -> None:
    """Predict, and print what it took."""
    from deepspot._spatial.neighbors import NeighborFinder
    from deepspot.models import DeepSpot

    ds.settings.progress = False
    ds.settings.embeddings_gb = 0
    model = ds.models.load()
    ready: Any = ds.encoders.get(model.card.encoder.name)
    if encoder == "mean colors":
        ready = MeanColors(ready)
    counts = {"tiles": 0}

    def counted(encode: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def run(tiles: np.ndarray) -> np.ndarray:
            counts["tiles"] += len(tiles)
            return encode(tiles)

        return run

    spent: dict[str, float] = {}
    for owner, method, name in (
        (ready, "encode", "encoder_s"),
        (ready, "resize_ahead", "encoder_s"),
        (NeighborFinder, "__init__", "neighbors_s"),
        (NeighborFinder, "of", "neighbors_s"),
        (DeepSpot, "predict", "network_s"),
    ):
        if hasattr(owner, method):
            setattr(owner, method, timed(getattr(owner, method), name, spent))
    ready.encode = counted(ready.encode)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for many in (300, n):  # the first call loads libraries
            sdata = make_slide(folder, places, many)
            out = Path(scratch) / f"{many}.zarr" if streamed else None
            counts["tiles"] = 0
            spent.clear()
            before = processor_seconds()
            ds.tl.predict(sdata, model, resolution=resolution, shapes_key=places, encoder=ready, out=out)
            seconds = processor_seconds() - before
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "memory": int(line.split()[1]) / 1e6} | counts | spent))


def timed(call: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    """Add the processor time of a function, in the thread that calls it, to an entry of `spent`."""

    def run(*args: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return call(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.thread_time() - start

    return run


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(Path(sys.argv[1]), *json.loads(sys.argv[3]))
    else:
        main(Path(sys.argv[1]))
