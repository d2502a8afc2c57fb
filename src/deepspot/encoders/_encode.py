"""From tiles of spots to the embeddings of spots and sub-spots, in whole batches for the encoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepspot._core.prefetch import RowBuffer, prefetch
from deepspot._spatial.boxes import central, split

from ._parts import encode_parts, gives_parts
from ._protocol import Encoder, ResizingEncoder, check_embedded

AHEAD = 2
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
class _Lane:
    """Tiles of one size: how they are cut out of that of a spot, how many, how they are embedded; those on the way."""

    cut: Callable[[np.ndarray], np.ndarray]
    per_spot: int
    encode: Callable[[np.ndarray], np.ndarray]
    tiles: RowBuffer = field(default_factory=RowBuffer)
    vectors: RowBuffer = field(default_factory=RowBuffer)


def stream_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], encoder: Encoder, tiling: Tiling
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Embed the tile and the sub-spots of every spot as they come, in whole batches.

    The next tiles are read, cut and, if the encoder has a method `resize_ahead`, resized while it computes.

    Parameters
    ----------
    batches
        Rows (b,) and tiles (b, side, side, 3), as the reader gives them.
    encoder, tiling
        What embeds; which tiles, and how many at once.

    Yields
    ------
    What came in `batches`: rows (b,), embeddings of the spots (b, d) in float32, and of the sub-spots (b, s, d) in
    float16 or None.
    """
    lanes = _lanes(encoder, tiling)
    waiting: deque[np.ndarray] = deque()
    for lane, tiles in prefetch(_loads(batches, waiting, lanes, encoder, tiling.batch_size), AHEAD):
        lane.vectors.put(lane.encode(tiles))
        while waiting and all(lane.vectors.n >= len(waiting[0]) * lane.per_spot for lane in lanes):
            rows = waiting.popleft()
            vectors = [
                lane.vectors.take(len(rows) * lane.per_spot).reshape(len(rows), -1, encoder.card.dim) for lane in lanes
            ]
            spot, parts = vectors if len(vectors) > 1 else (vectors[0][:, :1], vectors[0][:, 1:])
            yield rows, spot[:, 0], parts.astype(np.float16) if tiling.subspots else None


def _lanes(encoder: Encoder, tiling: Tiling) -> list[_Lane]:
    def encode(tiles: np.ndarray) -> np.ndarray:
        # A copy: they wait for the rest of their spots, and an encoder may use its memory again.
        embedded = np.array(encoder.encode(tiles))
        check_embedded(embedded, encoder, (len(tiles), encoder.card.dim))
        return embedded

    def cut(tiles: np.ndarray) -> np.ndarray:
        return central(tiles, tiling.grid) if tiling.only_central else split(tiles, tiling.grid)

    whole = _Lane(lambda tiles: tiles, 1, encode)
    if tiling.subspots and tiling.tokens:
        both = gives_parts(encoder)
        whole.encode = lambda tiles: encode_parts(tiles, both, grid=tiling.grid, only_central=tiling.only_central)
    elif tiling.subspots:
        return [whole, _Lane(cut, tiling.n_subspots, encode)]
    return [whole]


def _loads(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    waiting: deque[np.ndarray],
    lanes: list[_Lane],
    encoder: Encoder,
    batch_size: int,
) -> Iterator[tuple[_Lane, np.ndarray]]:
    """Whole batches for the encoder, each from one lane, and at the end what is left. Rows are put into `waiting`."""
    resize = encoder.resize_ahead if isinstance(encoder, ResizingEncoder) else None

    def load(lane: _Lane) -> tuple[_Lane, np.ndarray]:
        tiles = lane.tiles.take(batch_size)
        return lane, tiles if resize is None else resize(tiles)

    for rows, tiles in batches:
        if len(rows):
            waiting.append(rows)
        for lane in lanes:
            lane.tiles.put(lane.cut(tiles))
            while lane.tiles.n >= batch_size:
                yield load(lane)
    yield from (load(lane) for lane in lanes if lane.tiles.n)
