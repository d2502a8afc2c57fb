"""From tiles of spots to the embeddings of spots and sub-spots, in whole batches for the encoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepspot._core.compute import RowBuffer, prefetch
from deepspot._spatial.geometry import central, split

from ._card import Encoder, ResizingEncoder, check_embedded
from ._parts import encode_parts, gives_parts

PREFETCHED = 2
"""Batches of tiles that are read and cut while the encoder is busy with one."""


@dataclass(frozen=True)
class Tiling:
    """Which tiles of a spot go through the encoder, and how many at once.

    Attributes
    ----------
    grid, subspots
        Sub-spots along one side, and whether to embed them.
    batch_size
        Tiles that go through the encoder at once.
    only_central
        Of the sub-spots embed only the one in the middle.
    tokens
        Make sub-spots of what the encoder sees in the tile of their spot, in the same pass.
    """

    grid: int
    subspots: bool
    batch_size: int
    only_central: bool = False
    tokens: bool = False

    @property
    def n_subspots(self) -> int:
        """Sub-spots of a spot that are embedded."""
        return 0 if not self.subspots else 1 if self.only_central else self.grid**2


def encode_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], n: int, encoder: Encoder, **tiling: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed the tile and the sub-spots of `n` spots, each once: :func:`stream_spots` and :func:`gather`."""
    how = Tiling(**tiling)
    return gather(stream_spots(batches, encoder, how), n, encoder.card.dim, how)


def gather(
    embedded: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]], n: int, dim: int, tiling: Tiling
) -> tuple[np.ndarray, np.ndarray | None]:
    """Put what :func:`stream_spots` yields of `n` spots into arrays (n, dim) and (n, s, dim) or None."""
    spot = np.empty((n, dim), dtype=np.float32)
    parts = np.empty((n, tiling.n_subspots, dim), dtype=np.float16) if tiling.subspots else None
    for rows, some, some_parts in embedded:
        spot[rows] = some
        if parts is not None:
            parts[rows] = some_parts
    return spot, parts


@dataclass
class _Queue:
    """Tiles of one size: how they are cut out of that of a spot, how many, how they are embedded; those on the way."""

    cut: Callable[[np.ndarray], np.ndarray]
    per_spot: int
    encode: Callable[[np.ndarray], np.ndarray]
    tiles: RowBuffer = field(default_factory=RowBuffer)
    vectors: RowBuffer = field(default_factory=RowBuffer)


def stream_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    encoder: Encoder,
    tiling: Tiling,
    count: Callable[[int], object] = lambda n: None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Embed the tile and the sub-spots of every spot as they come, in whole batches.

    The next tiles are read, cut and, if the encoder has a method `resize_ahead`, resized while it computes.

    Parameters
    ----------
    batches
        Rows (b,) and tiles (b, side, side, 3), as the reader gives them.
    encoder, tiling
        What embeds; which tiles, and how many at once.
    count
        Called with the number of tiles of every batch that was embedded, for a progress bar.

    Yields
    ------
    What came in `batches`: rows (b,), embeddings of the spots (b, d) in float32, and of the sub-spots (b, s, d) in
    float16 or None.
    """
    queues = _queues(encoder, tiling)
    waiting: deque[np.ndarray] = deque()
    for queue, tiles in prefetch(_loads(batches, waiting, queues, encoder, tiling.batch_size), PREFETCHED):
        queue.vectors.put(queue.encode(tiles))
        count(len(tiles))
        while waiting and all(queue.vectors.n >= len(waiting[0]) * queue.per_spot for queue in queues):
            rows = waiting.popleft()
            n, dim = len(rows), encoder.card.dim
            vectors = [queue.vectors.take(n * queue.per_spot).reshape(n, -1, dim) for queue in queues]
            spot, parts = vectors if len(vectors) > 1 else (vectors[0][:, :1], vectors[0][:, 1:])
            yield rows, spot[:, 0], parts.astype(np.float16) if tiling.subspots else None


def _queues(encoder: Encoder, tiling: Tiling) -> list[_Queue]:
    def encode(tiles: np.ndarray) -> np.ndarray:
        # A copy: they wait for the rest of their spots, and an encoder may use its memory again.
        embedded = np.array(encoder.encode(tiles))
        check_embedded(embedded, encoder, (len(tiles), encoder.card.dim))
        return embedded

    def cut(tiles: np.ndarray) -> np.ndarray:
        return central(tiles, tiling.grid) if tiling.only_central else split(tiles, tiling.grid)

    whole = _Queue(lambda tiles: tiles, 1, encode)
    if tiling.subspots and tiling.tokens:
        both = gives_parts(encoder)
        whole.encode = lambda tiles: encode_parts(tiles, both, grid=tiling.grid, only_central=tiling.only_central)
    elif tiling.subspots:
        return [whole, _Queue(cut, tiling.n_subspots, encode)]
    return [whole]


def _loads(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    waiting: deque[np.ndarray],
    queues: list[_Queue],
    encoder: Encoder,
    batch_size: int,
) -> Iterator[tuple[_Queue, np.ndarray]]:
    """Whole batches for the encoder, each from one queue, and at the end what is left. Rows are put into `waiting`."""
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
