"""Prediction that goes to disk block by block: what it takes of memory is set by a block, not by the slide."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.logging import bar, track
from deepspot._core.prefetch import RowBuffer, prefetch
from deepspot._features.bags import Bags
from deepspot._features.cache import EmbeddingCache, embedding_cache
from deepspot._features.feature_table import Site, survey
from deepspot._sdata.tables import array_positions
from deepspot._sdata.zarr_store import lazy_table, write_atomically, write_table_in_blocks
from deepspot._spatial.neighbors import NeighborFinder, among

from .table import bare_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from .resolution import Job


ROWS = 512
"""Spots in a block: what is held, what a kill loses, and the height of a chunk on disk."""


def stream(job: Job, out: Path, *, half: bool, overwrite: bool) -> AnnData:
    """Embed and predict the spots of a slide, and write them to a SpatialData store.

    Parameters
    ----------
    job
        What to predict; it has been checked.
    out
        Store to make: spots and table, without the image. It gets its name when it is whole.
    half
        Keep as many significant bits as float16 has, in float32.
    overwrite
        Replace a store of that name.

    Returns
    -------
    The table, with `X` left on disk.
    """
    sdata, request, model = job.sdata, job.request, job.model
    site = survey(sdata, request)
    order = _along_curve(site.placement.centers)
    with (
        write_atomically(out, overwrite=overwrite) as draft,
        embedding_cache(digest(site.fingerprint, order, ROWS), _bytes(site), draft.parent) as kept,
    ):
        spots = _Spots(job, site, kept, order)
        spots.embed()
        score = [model.ood_score(spots.embedding(block)) for block in range(spots.n_blocks)]
        table = bare_table(
            sdata, model, request.shapes_key, site.placement.index[spots.order], site.placement.centers[spots.order],
            np.concatenate(score), provenance={"image_key": request.image_key, "resolution": "spot"},
        )  # fmt: skip
        # The next block is predicted while one is written. If that fails, the thread has to end before its folders do.
        with closing(prefetch(_predicted(spots, half), 1)) as predicted:
            blocks = track(predicted, f"Predicting {request.shapes_key}", total=spots.n_blocks, unit="block")
            write_table_in_blocks(_without_image(sdata, request.shapes_key, job.key, table), job.key, blocks, draft)
    return lazy_table(table, out, job.key)


def _without_image(sdata: SpatialData, shapes_key: str, key: str, table: AnnData) -> SpatialData:
    from spatialdata import SpatialData

    return SpatialData(shapes={shapes_key: sdata.shapes[shapes_key]}, tables={key: table}, attrs=dict(sdata.attrs))


@dataclass(frozen=True, eq=False)
class _Spots:
    """The spots of a slide in blocks of near ones, and their embeddings, made when they are needed."""

    job: Job
    site: Site
    kept: EmbeddingCache
    order: np.ndarray

    @cached_property
    def place(self) -> np.ndarray:
        """Where in that order a spot is."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        return place

    @cached_property
    def neighbors(self) -> NeighborFinder:
        rule, request = self.job.geometry.neighbors, self.site.request
        array = array_positions(self.job.sdata, request.shapes_key) if rule.kind == "box" else None
        return NeighborFinder(self.site.placement.centers * self.site.placement.mpp, rule, array)

    @property
    def n_blocks(self) -> int:
        return -(-len(self.order) // ROWS)

    def rows(self, block: int) -> np.ndarray:
        return self.order[block * ROWS : (block + 1) * ROWS]

    def embed(self) -> None:
        """Embed the blocks that are not kept, in one go: tiles and image blocks at their borders belong to several."""
        missing = [block for block in range(self.n_blocks) if not self.kept.holds(block)]
        if not missing:
            return
        rows = [self.rows(block) for block in missing]
        embedded = self.site.stream(np.concatenate(rows), device=self.job.device, batch_size=self.job.batch_size)
        spot, parts = RowBuffer(), RowBuffer()
        waiting = deque(zip(missing, map(len, rows), strict=True))
        with bar(f"Embedding {self.site.request.shapes_key}", total=len(missing), unit="block") as progress:
            for _, some, some_parts in embedded:
                spot.put(some)
                if some_parts is not None:
                    parts.put(some_parts)
                while waiting and spot.n >= waiting[0][1]:
                    block, n = waiting.popleft()
                    self.kept.put(block, spot.take(n), parts.take(n) if parts.n else None)
                    progress.update()

    def embedding(self, block: int) -> np.ndarray:
        """(b, d) embeddings of the spot tiles of a block, in the precision in which they are kept."""
        return self._get(block, "spot").astype(np.float32)

    def bags(self, block: int) -> Bags:
        """Bags whose first spots are those of a block; the others serve as neighbours only."""
        rows = self.rows(block)
        near = self.neighbors.of(rows)
        around = np.setdiff1d(near.indices, rows)
        spot = np.concatenate([self.embedding(block), self._embeddings_of(around)])
        neighbors = among(near, np.concatenate([rows, around]))
        neighbors.resize(len(spot), len(spot))
        subspots = None
        if self.site.request.subspots:
            own = self._get(block, "subspots")
            subspots = np.concatenate([own, np.zeros((len(around), *own.shape[1:]), own.dtype)])
        return Bags(spot, subspots, neighbors)

    def _embeddings_of(self, spots: np.ndarray) -> np.ndarray:
        block, row = np.divmod(self.place[spots], ROWS)
        found = np.empty((len(spots), self.site.request.encoder.card.dim), dtype=np.float32)
        for one in np.unique(block):
            found[block == one] = self.embedding(one)[row[block == one]]
        return found

    def _get(self, block: int, part: str) -> np.ndarray:
        found = self.kept.get(block, part)
        if found is None or len(found) != len(self.rows(block)):
            spot, subspots = self.site.embed(self.rows(block), device=self.job.device, batch_size=self.job.batch_size)
            self.kept.put(block, spot, subspots)
            found = self.kept.get(block, part)
        if found is None:
            raise OSError(f"Embeddings vanish from {self.kept.folder} while they are in use. What is cleaning it up?")
        return found


def _along_curve(centers: np.ndarray) -> np.ndarray:
    """Spots in the order of a Hilbert curve, on which those that follow each other lie close together."""
    from geopandas import GeoSeries, points_from_xy

    return np.argsort(GeoSeries(points_from_xy(*centers.T)).hilbert_distance().to_numpy(), kind="stable")


def _predicted(spots: _Spots, half: bool) -> Iterator[np.ndarray]:
    for block in range(spots.n_blocks):
        own = np.arange(len(spots.rows(block)))
        expression = spots.job.model.predict(spots.bags(block), device=spots.job.device, rows=own)
        expression = np.maximum(expression, 0)
        yield rounded(expression) if half else expression


def rounded(values: np.ndarray) -> np.ndarray:
    """Float32 values, each to the nearest with 11 significant bits; the others are 0, and pack to nothing."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0x0FFF) + odd) & np.uint32(0xFFFFE000)).view(np.float32)


def _bytes(site: Site) -> int:
    tiles = 1 + site.request.n_subspots
    return len(site.placement.centers) * tiles * site.request.encoder.card.dim * np.dtype(np.float16).itemsize
