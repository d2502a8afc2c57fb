"""How fast a worker takes the steps of a cohort, and what expression takes on disk.

    DEEPSPOT_DATA=../shared/data python benchmarks/throughput.py

Reading is measured on the mosaic of `benchmarks/streaming.py`, through OpenSlide as every whole slide is; embedding on
the same tiles with the embedded encoder, so that tiles per second are those of this device; prediction and writing with
a model of 5,000 genes, on embeddings of the right length. Bytes per value are of real predictions: the embedded model
on sections C2 and C5. The median of three runs, all in one process. Writes benchmarks/results/throughput.md,
throughput_bytes.md, and cohort_cost.md: what the paper's cohort costs by the formula of docs/cohorts.md.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from streaming import DISTANCE_UM, MPP, make_model, write_mosaic

import deepspot as ds
from deepspot._features.feature_table import SPOTS, SlideFeatures
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import TileGeometry
from deepspot.tl._predict.stream import ROWS, round_to_float16

REPEATS, READ, EMBEDDED = 3, 4_000, 24
VIT_L = 1.3  # tiles in a second, measured on these two cores
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    ds.settings.progress = False
    encoder = ds.encoders.get().to(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ds.settings.cache_dir = folder / "cache"
        rates(folder, encoder)
        sizes(folder)
    cost()


def rates(folder: Path, encoder: ds.encoders.Encoder) -> None:
    path = folder / "slide.tif"
    write_mosaic(path, READ)
    sdata = ds.io.slide(path)
    ds.pp.spots(sdata, diameter_um=55, pitch_um=DISTANCE_UM, layout="square", tissue=None)
    slide = SlideFeatures(SlideView.select(sdata), encoder, TileGeometry(tile_um=55, input_px=224))
    read = median(lambda: read_all(slide))
    embed = median(lambda: slide.embed(np.arange(EMBEDDED)))
    model = make_model(encoder, subspots=True)
    bags = of_block(model.card.dim)
    predict = median(lambda: model.predict(bags))
    values = round_to_float16(np.maximum(model.predict(bags), 0))
    write = median(lambda: write_block(folder / "block.zarr", values))
    megapixels = slide.n_spots * (DISTANCE_UM / MPP) ** 2 / 1e6
    lines = [
        f"| device {encoder.device}, {torch.get_num_threads()} threads | |",
        "|---|---|",
        f"| megapixels read and cut into tiles in a second | {megapixels / read:.0f} |",
        f"| tiles embedded in a second | {10 * EMBEDDED / embed:.0f} |",
        f"| spots predicted in a second, 5,000 genes | {ROWS / predict:,.0f} |",
        f"| megabytes of expression packed and written in a second | {values.nbytes / 1e6 / write:.0f} |",
    ]
    print("\n".join(lines))
    (RESULTS / "throughput.md").write_text("\n".join(lines) + "\n")


def read_all(slide: SlideFeatures) -> None:
    from deepspot._image.tiles import read_tiles

    for _ in read_tiles(slide.level, slide.boxes, SPOTS):
        pass


def of_block(dim: int) -> ds.models.Bags:
    from deepspot._spatial.geometry import NeighborRule
    from deepspot._spatial.neighbors import find_neighbors

    rng = np.random.default_rng(0)
    spot = rng.normal(size=(ROWS, dim)).astype(np.float32)
    parts = rng.normal(size=(ROWS, 9, dim)).astype(np.float16)
    grid = np.column_stack(np.divmod(np.arange(ROWS), int(ROWS**0.5))) * 1.0
    return ds.models.Bags(spot, parts, find_neighbors(grid, NeighborRule(reach=1.5)))


def write_block(path: Path, values: np.ndarray) -> None:
    import shutil

    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.zarr_store import write_table_in_blocks

    table = AnnData(shape=values.shape)
    write_table_in_blocks(SpatialData(tables={"table": table}), "table", [values], path)
    shutil.rmtree(path)


def sizes(folder: Path) -> None:
    lines = ["| section | bytes for each value | with `rounded=True` |", "|---|---|---|"]
    for section in ("C2", "C5"):
        found = []
        for rounded in (False, True):
            sdata = ds.datasets.her2st(section)
            out = folder / f"{section}_{rounded}.zarr"
            ds.tl.predict(sdata, out=out, rounded=rounded)
            table = sdata.tables["deepspot_spots"]
            chunks = (out / "tables" / "deepspot_spots" / "X").rglob("*")
            found.append(sum(path.stat().st_size for path in chunks if path.is_file()) / (table.n_obs * table.n_vars))
        lines.append(f"| {section} | {found[0]:.2f} | {found[1]:.2f} |")
        print(lines[-1], flush=True)
    (RESULTS / "throughput_bytes.md").write_text("\n".join(lines) + "\n")


def stored_rates() -> list[float]:
    """Megapixels read, tiles embedded, spots predicted and megabytes written in a second, as measured here last."""
    lines = (RESULTS / "throughput.md").read_text().splitlines()
    return [float(line.split("|")[2].replace(",", "")) for line in lines if "in a second" in line]


def stored_bytes() -> tuple[float, float]:
    """Bytes for each value on disk, exact and rounded, of the section that was measured last."""
    _, exact, rounded = (RESULTS / "throughput_bytes.md").read_text().splitlines()[-1].strip(" |").split("|")
    return float(exact), float(rounded)


def cost() -> None:
    """Core hours of 37 million spots at the stored rates, with the embedded encoder and with ViT-L."""
    spots, genes, cores = 37_000_000, 5_000, 2
    tiles, values = 10 * spots, spots * genes
    read, embed, predict, write = stored_rates()
    steps = {
        "read": (spots * (100 / 0.5) ** 2 / 1e6, "megapixels", read, 0),
        "embed, embedded encoder": (tiles, "tiles", embed, tiles * 1_312 * 2 / 1e9),
        "embed, ViT-L": (tiles, "tiles", VIT_L, tiles * 1_024 * 2 / 1e9),
        "predict": (spots, "spots", predict, 0),
        "write": (values * 4 / 1e6, "megabytes", write, values * stored_bytes()[1] / 1e9),
    }
    lines = ["| step | work | core hours | GB on disk |", "|---|---|---|---|"]
    for step, (work, unit, rate, size) in steps.items():
        lines.append(f"| {step} | {work:,.0f} {unit} | {cores * work / rate / 3600:,.0f} | {size:,.0f} |")
    (RESULTS / "cohort_cost.md").write_text("\n".join(lines) + "\n")


def median(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


if __name__ == "__main__":
    main()
