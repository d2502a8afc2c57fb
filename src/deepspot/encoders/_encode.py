from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from deepspot._core.prefetch import RowBuffer, prefetch
from deepspot._spatial.boxes import central, split

from ._parts import encode_parts, gives_parts
from ._protocol import Encoder, PartsEncoder, ResizingEncoder, checked

AHEAD = 2
"""Batches of tiles that are read and cut while the encoder is busy with one."""


@dataclass(frozen=True)
class Tiling:
    """Which tiles of a spot go through the encoder, and how many at once.

    Attributes
    ----------
    grid
        Sub-spots along one side.
    subspots
        Whether to embed the sub-spots.
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


def encode_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    n: int,
    encoder: Encoder,
    *,
    grid: int,
    subspots: bool,
    batch_size: int,
    only_central: bool = False,
    tokens: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed the tile and the sub-spots of every spot, each once.

    Parameters
    ----------
    batches
        Rows (b,) and tiles (b, side, side, 3), as the reader gives them.
    n
        Number of spots.
    encoder
        Embeds tiles.
    grid, subspots, batch_size, only_central, tokens
        As in :class:`Tiling`.

    Returns
    -------
    Embeddings of the spots (n, d) in float32, and of the sub-spots (n, grid² or 1, d) in float16 or None.
    """
    tiling = Tiling(grid, subspots, batch_size, only_central, tokens)
    return gather(stream_spots(batches, encoder, tiling), n, encoder.card.dim, tiling)


def gather(
    embedded: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]], n: int, dim: int, tiling: Tiling
) -> tuple[np.ndarray, np.ndarray | None]:
    """Put what :func:`stream_spots` yields of `n` spots into arrays."""
    count = 1 if tiling.only_central else tiling.grid**2
    spot = np.empty((n, dim), dtype=np.float32)
    parts = np.empty((n, count, dim), dtype=np.float16) if tiling.subspots else None
    for rows, some, some_parts in embedded:
        spot[rows] = some
        if parts is not None:
            parts[rows] = some_parts
    return spot, parts


def stream_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], encoder: Encoder, tiling: Tiling
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Embed the tile and the sub-spots of every spot as they come, in whole batches.

    The next tiles are read, cut and, if the encoder has a method `resize_ahead`, resized while it computes.

    Parameters
    ----------
    batches
        Rows (b,) and tiles (b, side, side, 3), as the reader gives them.
    encoder
        Embeds tiles.
    tiling
        Which tiles, and how many at once.

    Yields
    ------
    What came in `batches`: rows (b,), embeddings of the spots (b, d) in float32, and of the sub-spots (b, s, d) in
    float16 or None.
    """
    lanes = _lanes(encoder, tiling)
    begun: deque[np.ndarray] = deque()
    made = [RowBuffer() for _ in lanes]
    resize = encoder.resize_ahead if isinstance(encoder, ResizingEncoder) else None
    loads = _loads(batches, begun, lanes, resize, tiling.batch_size)
    for number, tiles in prefetch(loads, AHEAD):
        made[number].put(lanes[number].encode(tiles))
        while begun and all(line.n >= len(begun[0]) * lane.tiles for line, lane in zip(made, lanes, strict=True)):
            rows = begun.popleft()
            vectors = [
                line.take(len(rows) * lane.tiles).reshape(len(rows), -1, encoder.card.dim)
                for line, lane in zip(made, lanes, strict=True)
            ]
            spot, parts = vectors if len(vectors) > 1 else (vectors[0][:, :1], vectors[0][:, 1:])
            yield rows, spot[:, 0], parts.astype(np.float16) if tiling.subspots else None


@dataclass(frozen=True)
class _Lane:
    """Tiles of one size: how they are cut out of that of a spot, how many, and how they are embedded."""

    cut: Callable[[np.ndarray], np.ndarray]
    tiles: int
    encode: Callable[[np.ndarray], np.ndarray]


def _lanes(encoder: Encoder, tiling: Tiling) -> list[_Lane]:
    def encode(tiles: np.ndarray) -> np.ndarray:
        # A copy: they wait for the rest of their spots, and an encoder may use its memory again.
        return checked(np.array(encoder.encode(tiles)), encoder, (len(tiles), encoder.card.dim))

    def cut(tiles: np.ndarray) -> np.ndarray:
        return central(tiles, tiling.grid) if tiling.only_central else split(tiles, tiling.grid)

    whole = _Lane(lambda tiles: tiles, 1, encode)
    if not tiling.subspots:
        return [whole]
    if tiling.tokens:
        both = gives_parts(encoder)
        return [_Lane(whole.cut, 1, lambda tiles: _with_parts(tiles, both, tiling))]
    return [whole, _Lane(cut, 1 if tiling.only_central else tiling.grid**2, encode)]


def _with_parts(tiles: np.ndarray, encoder: PartsEncoder, tiling: Tiling) -> np.ndarray:
    spot, parts = encode_parts(tiles, encoder, grid=tiling.grid, only_central=tiling.only_central)
    return np.concatenate([spot[:, None], parts], axis=1)


def _loads(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    begun: deque[np.ndarray],
    lanes: list[_Lane],
    resize: Callable[[np.ndarray], np.ndarray] | None,
    batch_size: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Whole batches for the encoder, each from one lane, and at the end what is left. Rows are written to `begun`."""
    waiting = [RowBuffer() for _ in lanes]

    def load(number: int, n: int) -> tuple[int, np.ndarray]:
        tiles = waiting[number].take(n)
        return number, tiles if resize is None else resize(tiles)

    for rows, tiles in batches:
        if len(rows):
            begun.append(rows)
        for number, lane in enumerate(lanes):
            waiting[number].put(lane.cut(tiles))
            while waiting[number].n >= batch_size:
                yield load(number, batch_size)
    for number, line in enumerate(waiting):
        if line.n:
            yield load(number, line.n)
