"""The pipelines that benchmarks/side_by_side.py compares: each opens the slide file, places tiles, and writes results.

    python benchmarks/_pipelines.py '<job as JSON>'

All get the same encoder, and cut the same tiles with it. A process runs one of them: first on two spots of a copy of
the slide, so that nothing is imported or loaded later, and then on all, as often as it is told to. It imports only what
its pipeline uses, so that its memory is its own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _per_spot
import numpy as np
import torch
from _timing import wait
from gpu import make_encoder
from streaming import status

import deepspot as ds
from deepspot._core.compute import autocast
from deepspot._spatial.neighbors import find_neighbors
from deepspot.encoders._torch import TorchEncoder, prepare

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData
    from wsidata import WSIData

GRID = 3
"""Sub-spots along the side of a tile."""


@dataclass(frozen=True)
class Job:
    """What a process does: a pipeline, an encoder, and rows × columns of tiles from a corner (x, y) of the slide."""

    task: str
    pipeline: str
    encoder: str
    model: str | None
    slide: str
    out: str
    device: str
    mpp: float
    corner: tuple[int, int]
    rows: int
    columns: int
    side: int
    stride: int

    @property
    def origins(self) -> np.ndarray:
        """Upper left corners (n, 2; x and y) of the tiles, column by column as LazySlide makes them."""
        x, y = np.meshgrid(np.arange(self.columns), np.arange(self.rows), indexing="ij")
        return np.column_stack([x.ravel(), y.ravel()]) * self.stride + self.corner

    @property
    def folder(self) -> Path:
        return Path(self.out)


@dataclass(frozen=True)
class Loaded:
    """What every pipeline has before it starts."""

    encoder: TorchEncoder
    model: ds.models.DeepSpot
    published: _per_spot.Published | None


Found = tuple[np.ndarray, Path | None]
"""What was found (n, genes) or (n, d), and the files of the features, if any were written."""


class Regions:
    """A slide file as an array (3, height, width), of which every region that is asked for is read from the file."""

    def __init__(self, path: str) -> None:
        from openslide import OpenSlide

        self.slide = OpenSlide(path)
        width, height = self.slide.dimensions
        self.shape = (3, height, width)

    def __getitem__(self, at: tuple[slice, slice, slice]) -> np.ndarray:
        _, y, x = at
        region = self.slide.read_region((int(x.start), int(y.start)), 0, (int(x.stop - x.start), int(y.stop - y.start)))
        return np.asarray(region.convert("RGB")).transpose(2, 0, 1)


def per_spot(job: Job, ready: Loaded) -> Found:
    """The published pipeline: 1 + 9 + k tiles, one spot at a time, and the published network."""
    from anndata import AnnData

    image = Regions(job.slide)
    near = find_neighbors((job.origins + job.side / 2) * job.mpp, ready.model.card.geometry.neighbors)
    corners, embedded, genes = job.origins[:, ::-1], [], []
    for spot in range(len(corners)):
        tiles = _per_spot.tiles_of(image, corners, job.side, near[spot].indices, spot)
        vectors = _per_spot.embed(ready.encoder, tiles)
        genes.append(_per_spot.predict(ready.published, vectors))
        embedded.append(vectors[:10].cpu().numpy())
    AnnData(np.stack(genes)).write_h5ad(job.folder / "genes.h5ad")
    return np.stack(embedded), None


def judge(embedded: np.ndarray, job: Job, model: ds.models.DeepSpot) -> np.ndarray:
    """Predict with the model of the other pipelines from the embeddings (n, 10, d) of the published one."""
    neighbors = find_neighbors((job.origins + job.side / 2) * job.mpp, model.card.geometry.neighbors)
    return np.maximum(model.predict(ds.models.Bags(embedded[:, 0], embedded[:, 1:], neighbors)), 0)


def ours(job: Job, ready: Loaded) -> Found:
    """This package, with predictions streamed to disk."""
    sdata, out = with_spots(job, ready), job.folder / "genes.zarr"
    ds.tl.predict(sdata, ready.model, encoder=ready.encoder, device=job.device, out=out)
    table = sdata.tables["deepspot_spots"]
    return in_order(table, np.asarray(table.X[:])), job.folder / "cache"


def ours_features(job: Job, ready: Loaded) -> Found:
    """This package, features of spot tiles only."""
    sdata, out = with_spots(job, ready), job.folder / "features.zarr"
    ds.pp.embed(sdata, ready.encoder, subspots=False, device=job.device, key_added="features")
    sdata.subset(["spots", "features"], filter_tables=False).write(out)
    return in_order(sdata.tables["features"], sdata.tables["features"].X), out / "tables"


def with_spots(job: Job, ready: Loaded) -> SpatialData:
    """The slide with spots in the middle of the tiles."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    ds.settings.cache_dir = job.folder / "cache"
    sdata = ds.io.slide(job.slide)
    middle, radius = job.origins + job.side / 2, job.side / 2
    spots = ShapesModel.parse(middle, geometry=0, radius=radius, transformations={"global": Identity()})
    spots["diameter_um"] = ready.model.card.geometry.tile.tile_um
    sdata["spots"] = spots
    return sdata


def in_order(table: AnnData, values: np.ndarray) -> np.ndarray:
    """Rows in the order of the spots."""
    spot = table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()
    return values[np.argsort(spot)]


def lazyslide(job: Job, ready: Loaded) -> Found:
    """LazySlide with the model on its tiles: the sub-spots are cut and encoded by this package."""
    import lazyslide as zs

    wsi = tiled(job)
    predictor = ready.model.on_tiles(mpp=wsi.properties.mpp, encoder=ready.encoder)
    zs.tl.feature_extraction(wsi, predictor.image_model, device=job.device, pbar=False)
    return predicted(wsi, predictor, job)


def lazyslide_twice(job: Job, ready: Loaded) -> Found:
    """LazySlide alone: spot tiles and sub-spots are two tilings, both encoded by LazySlide."""
    from wsidata import TileSpec
    from wsidata.io import add_features, add_tiles

    wsi, third = tiled(job), job.side // GRID
    predictor = ready.model.on_tiles(mpp=wsi.properties.mpp, encoder=ready.encoder)
    steps = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), axis=-1).reshape(-1, 2) * third
    parts = (job.origins[:, None] + steps).reshape(-1, 2)
    add_tiles(wsi, "subspots", parts, TileSpec.from_wsidata(wsi, third), np.zeros(len(parts), dtype=int))
    features = np.concatenate(
        [extracted(wsi, ready, job, key).reshape(len(job.origins), -1) for key in ("tiles", "subspots")], axis=1
    )
    add_features(wsi, f"{predictor.features_model_name}_tiles", "tiles", features)
    return predicted(wsi, predictor, job)


def lazyslide_features(job: Job, ready: Loaded) -> Found:
    """LazySlide, features of spot tiles only."""
    wsi = tiled(job)
    features = extracted(wsi, ready, job, "tiles", keep=True)
    wsi.write()
    return features, job.folder / "store.zarr" / "tables"


def tiled(job: Job) -> WSIData:
    """The slide in LazySlide, with a rectangle as its tissue, and tiles in it."""
    import lazyslide as zs
    from shapely import box
    from wsidata.io import add_tissues

    wsi = zs.open_wsi(job.slide, store=str(job.folder / "store.zarr"))
    width, height = ((n - 1) * job.stride + job.side for n in (job.columns, job.rows))
    x, y = job.corner
    add_tissues(wsi, "tissues", [box(x, y, x + width, y + height)])
    zs.pp.tile_tissues(wsi, job.side, stride_px=job.stride)
    return wsi


def extracted(wsi: WSIData, ready: Loaded, job: Job, tile_key: str, *, keep: bool = False) -> np.ndarray:
    """Features of tiles by LazySlide: tiles are preprocessed one by one, and go through the encoder in its batches."""
    import lazyslide as zs

    encoder = ready.encoder

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(encoder.device):
            return encoder.forward(encoder.transform(pixels), encoder.appendix(pixels)).cpu()

    def one(tile: np.ndarray) -> torch.Tensor:
        return prepare(tile[None], encoder.card, torch.device("cpu"))[0]

    features = zs.tl.feature_extraction(
        wsi, encode, transform=one, tile_key=tile_key, key_added=f"of_{tile_key}", device=job.device, pbar=False,
        return_features=True,
    )  # fmt: skip
    if not keep:
        del wsi.tables[f"of_{tile_key}"]
    return features


def predicted(wsi: WSIData, predictor: Any, job: Job) -> Found:
    """Predict in LazySlide, and write its store."""
    import lazyslide as zs

    zs.tl.feature_prediction(wsi, predictor, device=job.device, pbar=False)
    wsi.write()
    features = job.folder / "store.zarr" / "tables" / f"{predictor.features_model_name}_tiles"
    return wsi.tables[f"{predictor.name}_tiles"].X, features


PIPELINES: dict[str, dict[str, Callable[[Job, Loaded], Found]]] = {
    "genes": {
        "published, one spot at a time": per_spot,
        "LazySlide, model by `on_tiles`": lazyslide,
        "LazySlide, sub-spots as a second tiling": lazyslide_twice,
        "deepspot": ours,
    },
    "features": {"LazySlide": lazyslide_features, "deepspot": ours_features},
}


def load(job: Job) -> Loaded:
    encoder = make_encoder(job.encoder).to(job.device)
    model = ds.models.load(job.model)
    published = None
    if PIPELINES[job.task][job.pipeline] is per_spot:
        published = _per_spot.Published(encoder.card.dim, len(model.card.genes)).to(encoder.device).eval()
    return Loaded(encoder, model, published)


def size(path: Path | None) -> int:
    """Bytes of all files in a folder."""
    return 0 if path is None else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure(job: Job, ready: Loaded, tiles: list[int]) -> dict[str, float]:
    """Run a pipeline, and return seconds, memory in MB, bytes written and the tiles that the encoder got."""
    device, run = ready.encoder.device, PIPELINES[job.task][job.pipeline]
    job.folder.mkdir()
    tiles.clear()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    base, start, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
    found, features = run(job, ready)
    wait(device)
    result = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "base": base,
        "peak": status("VmHWM"),  # that of getrusage counts the process that started this one, too
        "gpu": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0,
        "bytes": size(job.folder),
        "features": size(features),
        "tiles": sum(tiles) / len(job.origins),
        "threads": torch.get_num_threads(),
    }
    np.save(f"{job.out}.npy", judge(found, job, ready.model) if run is per_spot else found)
    shutil.rmtree(job.folder)
    return result


def main(job: Job) -> None:
    """Load and warm up, then measure once for every line that comes in."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    ds.settings.progress = False
    ready = load(job)
    ready.encoder.fingerprint  # noqa: B018 (before there is a hook, of which it must not depend)
    tiles: list[int] = []
    ready.encoder.module.register_forward_hook(lambda module, given, result: tiles.append(len(given[0])))
    measure(replace(job, rows=1, columns=2, slide=f"{job.slide}.copy.tiff"), ready, tiles)
    print("ready", file=reply, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(job, ready, tiles)), file=reply, flush=True)


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
