"""Embed the tiles of spots and sub-spots in full batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from deepspot._core.compute import Pending, RowBuffer, prefetch, start_in_threads
from deepspot._spatial.geometry import central, split

from ._card import Encoder, ResizingEncoder, StartingEncoder, check_embedded
from ._parts import require_parts, with_parts

PREFETCHED = 2
"""Number of batches that are read and cropped while the encoder computes."""


@dataclass(frozen=True)
class Tiling:
    """Define which tiles of a spot are embedded, and the batch size.

    Attributes
    ----------
    grid, subspots
        Number of sub-spots along one side, and whether to embed them.
    batch_size
        Number of tiles per call of the encoder.
    only_central
        Embed only the central sub-spot.
    tokens
        Compute sub-spots from the feature map of the spot tile, in the same pass.
    """

    grid: int
    subspots: bool
    batch_size: int
    only_central: bool = False
    tokens: bool = False

    @property
    def n_subspots(self) -> int:
        """Number of sub-spots per spot that are embedded."""
        return 0 if not self.subspots else 1 if self.only_central else self.grid**2


def encode_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], n: int, encoder: Encoder, **tiling: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed the tiles and sub-spots of `n` spots: :func:`stream_spots` followed by :func:`gather`."""
    options = Tiling(**tiling)
    return gather(stream_spots(batches, encoder, options), n, encoder.card.dim, options.n_subspots)


def gather(
    embedded: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]], n: int, dim: int, n_subspots: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Collect the output of :func:`stream_spots` for `n` spots in arrays (n, dim) and (n, s, dim) or None."""
    spot = np.empty((n, dim), dtype=np.float32)
    parts = np.empty((n, n_subspots, dim), dtype=np.float16) if n_subspots else None
    for rows, spot_block, parts_block in embedded:
        spot[rows] = spot_block
        if parts is not None:
            parts[rows] = parts_block
    return spot, parts


@dataclass
class _Queue:
    """Tiles of one size: how they are cropped from the spot tile, their number, and buffers."""

    cut: Callable[[np.ndarray], np.ndarray]
    per_spot: int
    tiles: RowBuffer = field(default_factory=RowBuffer)
    vectors: RowBuffer = field(default_factory=RowBuffer)


def stream_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    encoder: Encoder,
    tiling: Tiling,
    count: Callable[[int], object] = lambda n: None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Embed the tile and the sub-spots of each spot in full batches, in the order of the input.

    A thread reads, crops and, if the encoder has a method `resize_ahead`, resizes the next tiles meanwhile.

    Parameters
    ----------
    batches
        Rows (b,) and tiles (b, side, side, 3), as returned by the reader.
    encoder, tiling
        The encoder; the tiles to embed and the batch size.
    count
        Called with the number of tiles of each embedded batch, for a progress bar.

    Yields
    ------
    For each block of `batches`: rows (b,), embeddings of the spots (b, d) in float32, and of the sub-spots (b, s, d) in
    float16 or None.
    """
    queues = _queues(tiling)
    waiting: deque[np.ndarray] = deque()
    loads = _loads(batches, waiting, queues, encoder, tiling.batch_size)
    for queue, embedded in _encoded(loads, encoder, tiling):
        queue.vectors.put(embedded)
        count(len(embedded))
        while waiting and all(queue.vectors.n >= len(waiting[0]) * queue.per_spot for queue in queues):
            rows = waiting.popleft()
            n, dim = len(rows), encoder.card.dim
            vectors = [queue.vectors.take(n * queue.per_spot).reshape(n, -1, dim) for queue in queues]
            spot, parts = vectors if len(vectors) > 1 else (vectors[0][:, :1], vectors[0][:, 1:])
            yield rows, spot[:, 0], parts.astype(np.float16) if tiling.subspots else None


def _queues(tiling: Tiling) -> list[_Queue]:
    def cut(tiles: np.ndarray) -> np.ndarray:
        return central(tiles, tiling.grid) if tiling.only_central else split(tiles, tiling.grid)

    whole = _Queue(lambda tiles: tiles, 1)
    return [whole, _Queue(cut, tiling.n_subspots)] if tiling.subspots and not tiling.tokens else [whole]


def _encoded(
    loads: Iterable[tuple[_Queue, np.ndarray]], encoder: Encoder, tiling: Tiling
) -> Iterator[tuple[_Queue, np.ndarray]]:
    """Encode batches in their order. The next one begins before the last cores have completed the one before."""
    with_tokens = tiling.subspots and tiling.tokens
    parts_encoder, grid = require_parts(encoder) if with_tokens else None, tiling.grid if with_tokens else None
    pending: deque[tuple[_Queue, int, Pending[Any]]] = deque()

    def encode(tiles: np.ndarray) -> Any:
        return encoder.encode(tiles) if parts_encoder is None else parts_encoder.encode_parts(tiles, tiling.grid)

    def finish() -> tuple[_Queue, np.ndarray]:
        queue, n, started = pending.popleft()
        embedded = started.result()
        if parts_encoder is not None:
            return queue, with_parts(embedded, n, parts_encoder, grid=tiling.grid, only_central=tiling.only_central)
        # Copy, because the encoder may reuse its output array before all tiles of a spot are embedded.
        embedded = np.array(embedded)
        check_embedded(embedded, encoder, (n, encoder.card.dim), half=tiling.subspots)
        return queue, embedded

    starting = encoder if isinstance(encoder, StartingEncoder) and encoder.concurrent > 1 else None
    try:
        with closing(prefetch(loads, PREFETCHED)) as prefetched:
            for queue, tiles in prefetched:
                started = (
                    start_in_threads(encode, [tiles], 1, itemgetter(0))
                    if starting is None
                    else starting.start(tiles, grid)
                )
                pending.append((queue, len(tiles), started))
                if starting is None or len(pending) > 1:
                    yield finish()
        while pending:
            yield finish()
    finally:
        for _, _, started in pending:
            started.cancel()


def _loads(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    waiting: deque[np.ndarray],
    queues: list[_Queue],
    encoder: Encoder,
    batch_size: int,
) -> Iterator[tuple[_Queue, np.ndarray]]:
    """Yield full batches, each from one queue, and the remainder at the end. Append the rows to `waiting`."""
    resize = encoder.resize_ahead if isinstance(encoder, ResizingEncoder) else None

    def load(queue: _Queue) -> tuple[_Queue, np.ndarray]:
        tiles = queue.tiles.take(batch_size)
        return queue, tiles if resize is None else resize(tiles)

    for rows, tiles in batches:
        if len(rows):
            waiting.append(rows)
        for queue in queues:
            queue.tiles.put(queue.cut(tiles))
            while queue.tiles.n >= batch_size:
                yield load(queue)
    yield from (load(queue) for queue in queues if queue.tiles.n)
