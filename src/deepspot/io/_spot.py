from __future__ import annotations

from deepspot._logging import logger

VISIUM_UM = 55.0
"""Diameter of the tissue that a Visium spot measures."""

SPACE_RANGER_UM = 65.0
"""What Space Ranger calls `spot_diameter_fullres`, in µm: the spot with its blur."""

TOLERANCE = 0.05


def tissue_diameter(drawn_um: float) -> float:
    """Diameter of the measured tissue, from the diameter that the file states, both in µm."""
    if abs(drawn_um / SPACE_RANGER_UM - 1) > TOLERANCE:
        return drawn_um
    logger.info(
        "Spots are drawn %.0f µm wide, as Space Ranger does for Visium; they measure %.0f µm of tissue, which is what "
        "tiles will show (`spot_diameter_um=` states otherwise).",
        drawn_um,
        VISIUM_UM,
    )
    return VISIUM_UM
