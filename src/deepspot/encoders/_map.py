"""What an encoder makes of one tile, averaged over the parts of the tile that show its sub-spots."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._card import EncoderCard


def pool(cells: Tensor, grid: int, card: EncoderCard) -> Tensor:
    """Average cells (n, rows, columns, d) over sub-spots, as (n, grid², d) in float32, row by row."""
    down, across = (torch.from_numpy(weights(count, grid, card)).to(cells.device) for count in cells.shape[1:3])
    # Sums in half precision would blur what is little different from part to part.
    with torch.autocast(cells.device.type, enabled=False):
        return torch.einsum("nyxd,ay,bx->nabd", cells.float(), down, across).flatten(1, 2)


def weights(cells: int, grid: int, card: EncoderCard) -> np.ndarray:
    """Share (grid, cells) that every cell along a side has in every sub-spot: as far as it lies in it.

    Cells divide what the network sees evenly. It does not see the border of a tile if the card cuts it off; then the
    outer sub-spots are averaged over what is seen of them, so that none of them moves.
    """
    seen = 1 if card.resize_px is None else card.input_px / card.resize_px
    edges = ((np.arange(grid + 1) / grid - (1 - seen) / 2) / seen).clip(0, 1) * cells
    first, last = edges[:-1, None], edges[1:, None]
    if (last <= first).any():
        raise ValueError(
            f"Encoder {card.name!r} sees {seen:.0%} of a tile, and nothing of the outer of {grid} × {grid} sub-spots. "
            "Embed these from tiles of their own: `subspots='tiles'`."
        )
    cell = np.arange(cells)
    overlap = (np.minimum(last, cell + 1) - np.maximum(first, cell)).clip(min=0)
    return (overlap / (last - first)).astype(np.float32)
