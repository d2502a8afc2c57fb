"""Spot tiles as pixels, for the systems that learn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot import _reader
from deepspot._settings import settings

from ._features import SPOTS

if TYPE_CHECKING:
    from ._features import Plan


def read_tiles(plan: Plan, px: int) -> np.ndarray:
    """Read the tiles of a plan as uint8 (n, px, px, 3), resized without aliasing as encoders do."""
    import torch
    from torch.nn import functional as F

    n = len(plan.site.placement.centers)
    gb = n * px * px * 3 / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The tiles of {n:,} spots would take {gb:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. Raise the limit, or read smaller tiles with `tiles_px=`."
        )
    tiles = np.empty((n, px, px, 3), dtype=np.uint8)
    for rows, pixels in _reader.read(plan.site.level, plan.site.boxes, SPOTS):
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        small = F.interpolate(batch, size=(px, px), mode="bilinear", antialias=True, align_corners=False)
        tiles[rows] = small.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return tiles
