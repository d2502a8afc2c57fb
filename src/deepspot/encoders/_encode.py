from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deepspot._boxes import central, split

from ._protocol import Encoder

LARGEST = float(np.finfo(np.float16).max)


def encode_spots(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    n: int,
    encoder: Encoder,
    *,
    grid: int,
    subspots: bool,
    batch_size: int,
    only_central: bool = False,
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
    grid
        Sub-spots along one side.
    subspots
        Whether to embed the sub-spots.
    batch_size
        Tiles that go through the encoder at once.
    only_central
        Of the sub-spots embed only the one in the middle.

    Returns
    -------
    Embeddings of the spots (n, d) in float32, and of the sub-spots (n, grid² or 1, d) in float16 or None.
    """
    dim = encoder.card.dim
    spot = np.empty((n, dim), dtype=np.float32)
    cut = central if only_central else split
    parts = np.empty((n, 1 if only_central else grid * grid, dim), dtype=np.float16) if subspots else None
    for rows, tiles in batches:
        spot[rows] = _in_batches(encoder, tiles, batch_size)
        if parts is not None:
            embedded = _in_batches(encoder, cut(tiles, grid), batch_size)
            parts[rows] = embedded.reshape(len(rows), -1, dim)
    return spot, parts


def _in_batches(encoder: Encoder, tiles: np.ndarray, batch_size: int) -> np.ndarray:
    parts = [np.asarray(encoder.encode(tiles[at : at + batch_size])) for at in range(0, len(tiles), batch_size)]
    embedded = np.concatenate(parts)
    name = encoder.card.name
    if embedded.shape != (len(tiles), encoder.card.dim):
        raise ValueError(
            f"Encoder {name!r} gave embeddings of shape {embedded.shape} for {len(tiles)} tiles, its card says "
            f"({len(tiles)}, {encoder.card.dim}). Correct `dim` in the card, or let it return one vector per tile."
        )
    if not np.isfinite(embedded).all() or np.abs(embedded).max() > LARGEST:
        raise ValueError(
            f"Encoder {name!r} gave values that are not finite or above {LARGEST:,.0f}, which sub-spots are stored "
            "with in half precision. Check its weights and preprocessing."
        )
    return embedded
