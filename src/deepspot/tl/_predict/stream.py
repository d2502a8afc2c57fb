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

from deepspot._core.compute import RowBuffer, prefetch
from deepspot._core.hashing import digest
from deepspot._core.logging import track
from deepspot._features.bags import Bags
from deepspot._features.cache import EmbeddingCache, embedding_cache
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.zarr_store import lazy_table, write_atomically, write_table_in_blocks
from deepspot._spatial.neighbors import NeighborFinder, select_columns

from .table import bare_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot


ROWS = 512
"""Spots in a block: what is held, what a kill loses, and the height of a chunk on disk."""


def stream(
    features: SlideFeatures,
    model: DeepSpot,
    out: Path,
    key: str,
    *,
    rounded: bool,
    overwrite: bool,
    device: str | None,
    batch_size: int | None,
) -> AnnData:
    """Embed and predict the spots of a slide, and write them to a SpatialData store.

    Parameters
    ----------
    features, model
        What to embed, and what predicts.
    out
        Store to make: spots and table, without the image. It gets its name when it is whole.
    key
        Name of the table.
    rounded
        Keep as many significant bits as float16 has, in float32.
    overwrite
        Replace a store of that name.
    device, batch_size
        Where to compute, and how many tiles at once.

    Returns
    -------
    The table, with `X` left on disk.
    """
    view = features.view
    order = _along_curve(view.centers)
    n_bytes = features.n_spots * (1 + features.n_subspots) * features.encoder.card.dim * np.dtype(np.float16).itemsize
    with (
        write_atomically(out, overwrite=overwrite) as draft,
        embedding_cache(digest(features.fingerprint, order, ROWS), n_bytes, draft.parent) as kept,
    ):
        blocks = _Blocks(features, model, kept, order, device, batch_size)
        blocks.embed()
        score = [model.ood_score(blocks.embedding(block)) for block in range(blocks.n)]
        table = bare_table(
            view.sdata,
            model,
            view.shapes_key,
            view.index[order],
            view.centers[order],
            np.concatenate(score),
            provenance={"image_key": view.image_key, "resolution": "spot"},
        )
        # The next block is predicted while one is written. If that fails, the thread has to end before its folders do.
        with closing(prefetch(blocks.predict(rounded=rounded), 1)) as predicted:
            rows = track(predicted, f"Predicting {view.shapes_key}", total=blocks.n, unit="block")
            write_table_in_blocks(_without_image(view.sdata, view.shapes_key, key, table), key, rows, draft)
    return lazy_table(table, out, key)


def _without_image(sdata: SpatialData, shapes_key: str, key: str, table: AnnData) -> SpatialData:
    from spatialdata import SpatialData

    return SpatialData(shapes={shapes_key: sdata.shapes[shapes_key]}, tables={key: table}, attrs=dict(sdata.attrs))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The spots of a slide in blocks of near ones, and their embeddings, made when they are needed."""

    features: SlideFeatures
    model: DeepSpot
    kept: EmbeddingCache
    order: np.ndarray
    device: str | None
    batch_size: int | None

    @cached_property
    def place(self) -> np.ndarray:
        """Where in that order a spot is."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        return place

    @cached_property
    def neighbors(self) -> NeighborFinder:
        view, rule = self.features.view, self.model.geometry.neighbors
        return NeighborFinder(view.centers_um, rule, view.array_positions if rule.kind == "box" else None)

    @property
    def n(self) -> int:
        return -(-len(self.order) // ROWS)

    def rows(self, block: int) -> np.ndarray:
        return self.order[block * ROWS : (block + 1) * ROWS]

    def embed(self) -> None:
        """Embed the blocks that are not kept, in one go: tiles and image blocks at their borders belong to several."""
        missing = [block for block in range(self.n) if not self.kept.holds(block)]
        if not missing:
            return
        rows = [self.rows(block) for block in missing]
        name = f"Embedding {self.features.view.shapes_key}"
        embedded = self.features.stream(
            np.concatenate(rows), device=self.device, batch_size=self.batch_size, progress=name
        )
        spot, subspots = RowBuffer(), RowBuffer()
        waiting = deque(zip(missing, map(len, rows), strict=True))
        for _, some, some_subspots in embedded:
            spot.put(some)
            if some_subspots is not None:
                subspots.put(some_subspots)
            while waiting and spot.n >= waiting[0][1]:
                block, n = waiting.popleft()
                self.kept.put(block, spot.take(n), subspots.take(n) if subspots.n else None)

    def embedding(self, block: int) -> np.ndarray:
        """(b, d) embeddings of the spot tiles of a block, in the precision in which they are kept."""
        return self._get(block, "spot").astype(np.float32)

    def predict(self, *, rounded: bool) -> Iterator[np.ndarray]:
        """Expression (b, genes) of every block, not below 0."""
        for block in range(self.n):
            own = np.arange(len(self.rows(block)))
            expression = np.maximum(self.model.predict(self._bags(block), device=self.device, rows=own), 0)
            yield round_to_float16(expression) if rounded else expression

    def _bags(self, block: int) -> Bags:
        """Bags whose first spots are those of a block; the others serve as neighbors only."""
        rows = self.rows(block)
        near = self.neighbors.of(rows)
        around = np.setdiff1d(near.indices, rows)
        spot = np.concatenate([self.embedding(block), self._embeddings_of(around)])
        neighbors = select_columns(near, np.concatenate([rows, around]))
        neighbors.resize(len(spot), len(spot))
        subspots = None
        if self.features.subspots:
            own = self._get(block, "subspots")
            subspots = np.concatenate([own, np.zeros((len(around), *own.shape[1:]), own.dtype)])
        return Bags(spot, subspots, neighbors)

    def _embeddings_of(self, spots: np.ndarray) -> np.ndarray:
        block, row = np.divmod(self.place[spots], ROWS)
        found = np.empty((len(spots), self.features.encoder.card.dim), dtype=np.float32)
        for one in np.unique(block):
            found[block == one] = self.embedding(one)[row[block == one]]
        return found

    def _get(self, block: int, part: str) -> np.ndarray:
        found = self.kept.get(block, part)
        if found is None or len(found) != len(self.rows(block)):
            embedded = self.features.embed(self.rows(block), device=self.device, batch_size=self.batch_size)
            self.kept.put(block, *embedded)
            found = self.kept.get(block, part)
        if found is None:
            raise OSError(f"Embeddings vanish from {self.kept.folder} while they are in use. What is cleaning it up?")
        return found


def _along_curve(centers: np.ndarray) -> np.ndarray:
    """Spots in the order of a Hilbert curve, on which those that follow each other lie close together."""
    from geopandas import GeoSeries, points_from_xy

    return np.argsort(GeoSeries(points_from_xy(*centers.T)).hilbert_distance().to_numpy(), kind="stable")


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """Float32 values, each to the nearest with 11 significant bits; the others are 0, and pack to nothing."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0x0FFF) + odd) & np.uint32(0xFFFFE000)).view(np.float32)
