"""Compute sub-spots from the feature map of the spot tile, in one pass instead of one per sub-spot."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepspot.errors import InputError

from ._card import Encoder, EncoderCard, PartsEncoder, check_embedded

# Increase with each change of how parts are computed from tokens, so that old features are not reused.
VERSION = 1


def require_parts(encoder: Encoder) -> PartsEncoder:
    """Return the encoder, or raise if it cannot embed the parts of a tile."""
    if not isinstance(encoder, PartsEncoder):
        raise InputError(
            f"Encoder {encoder.card.name!r} returns one vector per tile and no parts. Embed sub-spots from separate "
            "tiles (`subspots='tiles'`), or use an embedded encoder, one of the zoo, or a torch module with a method "
            "`with_map`, see `ds.encoders.register`."
        )
    return encoder


def with_parts(
    embedded: tuple[np.ndarray, np.ndarray], n: int, encoder: PartsEncoder, *, grid: int, only_central: bool = False
) -> np.ndarray:
    """Check what `encode_parts` returned for `n` tiles: each tile, its parts or the central one: (n, 1 + s, d)."""
    spot, parts = (np.asarray(array) for array in embedded)
    check_embedded(spot, encoder, (n, encoder.card.dim))
    check_embedded(parts, encoder, (n, grid * grid, encoder.card.dim))
    return np.concatenate([spot[:, None], parts[:, [grid * grid // 2]] if only_central else parts], axis=1)


def pool(cells: Tensor, grid: int, card: EncoderCard) -> Tensor:
    """Average cells (n, rows, columns, d) over sub-spots: (n, grid², d) in float32, in row-major order."""
    down, across = (torch.from_numpy(weights(count, grid, card)).to(cells.device) for count in cells.shape[1:3])
    # Half precision would blur small differences between parts.
    with torch.autocast(cells.device.type, enabled=False):
        return torch.einsum("nyxd,ay,bx->nabd", cells.float(), down, across).flatten(1, 2)


def weights(cells: int, grid: int, card: EncoderCard) -> np.ndarray:
    """Return the weight (grid, cells) of each cell along a side in each sub-spot, by overlap.

    Cells divide the visible part of the tile evenly. If the card crops the border of a tile, outer sub-spots are
    averaged over their visible part.
    """
    seen = 1 if card.resize_px is None else card.input_px / card.resize_px
    edges = ((np.arange(grid + 1) / grid - (1 - seen) / 2) / seen).clip(0, 1) * cells
    first, last = edges[:-1, None], edges[1:, None]
    if (last <= first).any():
        raise InputError(
            f"Encoder {card.name!r} sees {seen:.0%} of a tile, and none of the outer of {grid} × {grid} sub-spots. "
            "Embed sub-spots from separate tiles: `subspots='tiles'`."
        )
    cell = np.arange(cells)
    overlap = (np.minimum(last, cell + 1) - np.maximum(first, cell)).clip(min=0)
    return (overlap / (last - first)).astype(np.float32)
