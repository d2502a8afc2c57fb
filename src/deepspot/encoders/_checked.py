from __future__ import annotations

import numpy as np

from ._protocol import Encoder

LARGEST = float(np.finfo(np.float16).max)


def checked(embedded: np.ndarray, encoder: Encoder, expected: tuple[int, ...]) -> np.ndarray:
    """Embeddings of so many tiles and parts as the encoder's card says, or an error."""
    name = encoder.card.name
    if embedded.shape != expected:
        raise ValueError(
            f"Encoder {name!r} gave embeddings of shape {embedded.shape} for {expected[0]} tiles, its card says "
            f"{expected}. Correct `dim` in the card, or let it return one vector per tile."
        )
    if not np.isfinite(embedded).all() or np.abs(embedded).max() > LARGEST:
        raise ValueError(
            f"Encoder {name!r} gave values that are not finite or above {LARGEST:,.0f}, which sub-spots are stored "
            "with in half precision. Check its weights and preprocessing."
        )
    return embedded
