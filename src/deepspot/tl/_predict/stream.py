"""Prediction that is written to disk in blocks, so that the memory does not depend on the size of the slide."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.atomic import replace_folder
from deepspot._core.compute import RowBuffer, prefetch
from deepspot._core.hashing import digest
from deepspot._core.keys import LEARNED
from deepspot._core.logging import track
from deepspot._features.bags import Bags
from deepspot._features.cache import EmbeddingCache, embedding_cache
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.zarr_store import lazy_table, write_table_in_blocks
from deepspot._spatial.neighbors import NeighborFinder, select_columns
from deepspot.models._model import clip_expression, warn_of_impossible

from .resolution import conserve
from .table import Resolution, bare_table, check_size

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot.models import Model


# Spots per block and rows per chunk on disk. An interrupted call loses the embeddings of one block.
ROWS = 512


@dataclass(frozen=True, eq=False)
class Parents:
    """Spots to which cells are scaled: their predicted table, and its row (n,) for each cell, -1 if it is in none."""

    prediction: AnnData
    groups: np.ndarray

    def anchors(self, centers: np.ndarray) -> np.ndarray:
        """Return the center (n, 2) of the spot of each cell, or its own in no spot."""
        spots = np.asarray(self.prediction.obsm["spatial"])
        return np.where(self.groups[:, None] >= 0, spots[self.groups], centers)

    def scaled(self, blocks: Iterable[np.ndarray], order: np.ndarray) -> Iterator[np.ndarray]:
        """Scale the cells of blocks (b, genes) in place to their spots, and yield them in blocks of `ROWS`.

        In this order, the cells of a spot follow each other. Those of the last spot of a block wait for the next block.
        """
        groups, at = self.groups[order], 0
        held, done = RowBuffer(), RowBuffer()
        for block in blocks:
            held.put(block)
            own = groups[at : at + held.n]
            complete = at + held.n == len(groups) or own[-1] < 0
            if n := held.n if complete else int(np.argmax(own == own[-1])):
                rows = held.take(n)
                conserve(rows, self.prediction.X, own[:n])
                done.put(rows)
                at += n
            while done.n >= ROWS:
                yield done.take(ROWS)
        if done.n:
            yield done.take(done.n)


def stream(
    features: SlideFeatures,
    model: Model,
    out: Path,
    key: str,
    *,
    resolution: Resolution = "spot",
    parents: Parents | None = None,
    rounded: bool,
    overwrite: bool,
    device: str | None,
    batch_size: int | None,
) -> AnnData:
    """Embed and predict the spots of a slide, write spots and table to a SpatialData store, and return the table.

    Cells are scaled to their `parents`. The store has the name `out` only when it is complete. `X` of the table is on
    disk, in float32, with the significant bits of float16 if `rounded`.
    """
    from spatialdata import SpatialData

    view = features.view
    if parents is None:
        order = _along_curve(view.centers)
    else:
        order = _along_curve(parents.anchors(view.centers), parents.groups)
    card = features.encoder.card
    n_bytes = features.n_spots * (1 + features.n_subspots) * card.dim * np.dtype(np.float16).itemsize
    made_by = [features.fingerprint, card.name, card.dim]  # own encoders may have the same fingerprint
    with (
        replace_folder(out, overwrite=overwrite) as draft,
        embedding_cache(digest(made_by, order, ROWS), n_bytes, draft.parent) as kept,
    ):
        blocks = _Blocks(features, model, kept, order, device, batch_size)
        blocks.embed()
        score = [model.ood_score(blocks.embedding(block)) for block in range(blocks.n)]
        provenance = {"resolution": resolution, LEARNED: model.card.learned_from(features.image_hash)}
        table = bare_table(view, model, np.concatenate(score), provenance=provenance, order=order)
        # A thread predicts the next block during writing. It must end before its folders are deleted after an error.
        with closing(prefetch(blocks.predict(parents, rounded=rounded), 1)) as predicted:
            rows = track(predicted, f"Predicting {view.shapes_key}", total=blocks.n, unit="block")
            shapes = {view.shapes_key: view.sdata.shapes[view.shapes_key]}
            store = SpatialData(shapes=shapes, tables={key: table}, attrs=dict(view.sdata.attrs))
            write_table_in_blocks(store, key, rows, draft)
    return lazy_table(table, out, key)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Blocks of nearby spots: their embeddings, from the cache or computed, and their predictions."""

    features: SlideFeatures
    model: Model
    kept: EmbeddingCache
    order: np.ndarray
    device: str | None
    batch_size: int | None

    @cached_property
    def place(self) -> np.ndarray:
        """Position (n,) of every spot in the order."""
        return np.argsort(self.order)

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
        """Embed the blocks that are not in the cache, in one pass, because neighboring blocks share image chunks."""
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
        """Return the embeddings (b, d) of the spot tiles of a block, rounded to the precision of the cache."""
        return self._get(block, "spot").astype(np.float32)

    def predict(self, parents: Parents | None, *, rounded: bool) -> Iterator[np.ndarray]:
        """Yield the expression (b, genes) of every block, clipped to possible values and scaled to their spots."""
        expression = self._clipped(self._whole() if self.model.whole_slide else self._by_block())
        if parents is not None:
            expression = self._clipped(parents.scaled(expression, self.order))
        return map(round_to_float16, expression) if rounded else expression

    def _clipped(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        above = total = 0
        for block in blocks:
            expression, n = clip_expression(self.model, block)
            above, total = above + n, total + expression.size
            yield expression
        warn_of_impossible(above, total)

    def _by_block(self) -> Iterator[np.ndarray]:
        for block in range(self.n):
            own = np.arange(len(self.rows(block)))
            yield self.model.predict(self._bags(block), device=self.device, rows=own)

    def _whole(self) -> Iterator[np.ndarray]:
        """Predict all spots in one call, which takes the memory of their features and of the prediction."""
        check_size(self.model, len(self.order), "spot")
        near = self.neighbors.of(self.order)
        spot = np.concatenate([self.embedding(block) for block in range(self.n)])
        bags = Bags(spot, None, select_columns(near, self.order), origins=self._origins(self.order))
        expression = self.model.predict(bags, device=self.device)
        for block in range(self.n):
            yield expression[block * ROWS : (block + 1) * ROWS]

    def _origins(self, spots: np.ndarray) -> np.ndarray:
        view, tile = self.features.view, self.features.geometry
        return view.centers[spots] - tile.tile_um / view.mpp / 2

    def _bags(self, block: int) -> Bags:
        """Return bags with the spots of a block first and their neighbors after them."""
        rows = self.rows(block)
        near = self.neighbors.of(rows)
        around = np.setdiff1d(near.indices, rows)
        spot = np.concatenate([self.embedding(block), self._embeddings_of(around)])
        neighbors = select_columns(near, np.concatenate([rows, around]))
        neighbors.resize(len(spot), len(spot))
        subspots = present = None
        if self.features.subspots:
            own = self._get(block, "subspots")
            subspots = np.concatenate([own, np.zeros((len(around), *own.shape[1:]), own.dtype)])
        if (known := self.features.present) is not None:
            present = np.concatenate([known[rows], np.zeros((len(around), known.shape[1]), dtype=bool)])
        origins = self._origins(np.concatenate([rows, around]))
        return Bags(spot, subspots, neighbors, origins=origins, present=present)

    def _embeddings_of(self, spots: np.ndarray) -> np.ndarray:
        block, row = np.divmod(self.place[spots], ROWS)
        found = np.empty((len(spots), self.features.encoder.card.dim), dtype=np.float32)
        for one in np.unique(block):
            found[block == one] = self.embedding(one)[row[block == one]]
        return found

    def _get(self, block: int, part: str) -> np.ndarray:
        shape: tuple[int, ...] = (len(self.rows(block)), self.features.encoder.card.dim)
        if part == "subspots":
            shape = (shape[0], self.features.n_subspots, shape[1])
        found = self.kept.get(block, part, shape)
        if found is None:
            embedded = self.features.embed(self.rows(block), device=self.device, batch_size=self.batch_size)
            self.kept.put(block, *embedded)
            found = self.kept.get(block, part, shape)
        if found is None:
            raise OSError(f"Embeddings in {self.kept.folder} were deleted during use. Exclude it from clean-up.")
        return found


def _along_curve(centers: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the order of the spots along a Hilbert curve, which keeps consecutive spots close together.

    The members of each of the `groups` (n,), which share a center, follow each other.
    """
    from geopandas import GeoSeries, points_from_xy

    distance = GeoSeries(points_from_xy(*centers.T)).hilbert_distance().to_numpy()
    return np.lexsort((distance,) if groups is None else (groups, distance))


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """Round float32 values to 11 significant bits, like float16; the other bits are 0 and compress well."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0x0FFF) + odd) & np.uint32(0xFFFFE000)).view(np.float32)
