"""Sub-spots from the tokens of the spot tile: one pass through the encoder instead of one for every sub-spot."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepspot.errors import InputError

from ._card import Encoder, EncoderCard, PartsEncoder, check_embedded

# To be raised with every change of how parts are made of tokens, so that old features are not taken for new ones.
VERSION = 1


def gives_parts(encoder: Encoder) -> PartsEncoder:
    """Return an encoder, or raise if it gives nothing but one vector for a tile."""
    if not isinstance(encoder, PartsEncoder):
        raise InputError(
            f"Encoder {encoder.card.name!r} gives one vector for a tile and nothing of its parts, so sub-spots have to "
            "be embedded from tiles of their own: `subspots='tiles'`. The embedded encoders and those of the zoo give "
            "both; a torch module does with a method `with_map`, see `ds.encoders.register`."
        )
    return encoder


def encode_parts(tiles: np.ndarray, encoder: PartsEncoder, *, grid: int, only_central: bool = False) -> np.ndarray:
    """Embed tiles (n, side, side, 3), and after each its parts, or the one in the middle: (n, 1 + s, d)."""
    spot, parts = (np.asarray(array) for array in encoder.encode_parts(tiles, grid))
    check_embedded(spot, encoder, (len(tiles), encoder.card.dim))
    check_embedded(parts, encoder, (len(tiles), grid * grid, encoder.card.dim))
    return np.concatenate([spot[:, None], parts[:, [grid * grid // 2]] if only_central else parts], axis=1)


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
        raise InputError(
            f"Encoder {card.name!r} sees {seen:.0%} of a tile, and nothing of the outer of {grid} × {grid} sub-spots. "
            "Embed these from tiles of their own: `subspots='tiles'`."
        )
    cell = np.arange(cells)
    overlap = (np.minimum(last, cell + 1) - np.maximum(first, cell)).clip(min=0)
    return (overlap / (last - first)).astype(np.float32)
