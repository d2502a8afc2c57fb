"""Values and bytes for the viewer: one byte for each value, compressed, as base64."""

from __future__ import annotations

import base64
import gzip

import numpy as np

STEPS, NONE = 254, 255
"""Values have the levels 0 to 254 between the smallest and the largest of a gene; 255 is a missing value."""


def pack(content: bytes | np.ndarray) -> str:
    """Return content as base64 of gzip; the same content gives the same text. Numbers are little-endian."""
    if isinstance(content, np.ndarray):
        content = content.astype(content.dtype.newbyteorder("<"), copy=False).tobytes()
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")


def to_levels(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Round values (n,) to levels in uint8; return them with the values of level 0 and level 254.

    A value differs from that of its level by at most half of a step, which is 1/254 of the span of the values.
    """
    known = np.isfinite(values)
    low, high = (float(f"{edge:.7g}") for edge in (values[known].min(), values[known].max()))
    levels = np.full(len(values), NONE, dtype=np.uint8)
    share = (values[known] - low) / (high - low) if high > low else np.zeros(known.sum())
    levels[known] = np.round(np.clip(share, 0, 1) * STEPS)
    return levels, low, high
