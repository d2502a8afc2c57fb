"""Sub-spots from the tokens of the spot tile: one pass through the encoder instead of one for every sub-spot."""

from __future__ import annotations

import numpy as np

from ._checked import checked
from ._protocol import Encoder, PartsEncoder

# To be raised with every change of how parts are made of tokens, so that old features are not taken for new ones.
VERSION = 1


def gives_parts(encoder: Encoder) -> PartsEncoder:
    """Return an encoder, or raise if it gives nothing but one vector for a tile."""
    if not isinstance(encoder, PartsEncoder):
        raise ValueError(
            f"Encoder {encoder.card.name!r} gives one vector for a tile and nothing of its parts, so sub-spots have to "
            "be embedded from tiles of their own: `subspots='tiles'`. The embedded encoders and those of the zoo give "
            "both; a torch module does with a method `with_map`, see `ds.encoders.register`."
        )
    return encoder


def encode_parts(
    tiles: np.ndarray, encoder: PartsEncoder, *, grid: int, only_central: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Embed tiles (n, side, side, 3) as (n, d), and their parts, or the one in the middle, as (n, s, d)."""
    spot, parts = (np.asarray(array) for array in encoder.encode_parts(tiles, grid))
    checked(spot, encoder, (len(tiles), encoder.card.dim))
    checked(parts, encoder, (len(tiles), grid * grid, encoder.card.dim))
    return spot, parts[:, [grid * grid // 2]] if only_central else parts
