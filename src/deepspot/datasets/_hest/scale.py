"""How large pixels and spots of a HEST sample are: what the metadata say, against where the spots lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._spatial.transforms import pitch_px
from deepspot.datasets._shared.array_scale import mpp_from_spots
from deepspot.io._genes import VISIUM_UM
from deepspot.io._visium import PITCH_UM

ST_PITCH_UM, ST_UM = 200.0, 100.0
POOLED = ("xenium", "visium hd")
SQUARE_UM = (8.0, 250.0)
REFUSE, SAY = 0.1, 0.03
ESTIMATED, EMBEDDED = "pixel_size_um_estimated", "pixel_size_um_embedded"
# Of a number in the metadata; Python's whole numbers know no end.
LARGEST = 1e9


@dataclass(frozen=True)
class Spots:
    """Spots of a sample and what was written about them.

    Attributes
    ----------
    centers
        (n, 2) x and y in pixels.
    obs
        With their array positions, if known.
    meta
        The metadata.
    file
        What they are called in messages.
    shrunk
        Whether the image has fewer pixels than the metadata are for.
    """

    centers: np.ndarray
    obs: pd.DataFrame
    meta: dict[str, Any]
    file: str
    shrunk: bool


@dataclass(frozen=True)
class Measured:
    """Scale of a sample: µm per pixel, diameter of the tissue of a spot in µm, and what measured it."""

    mpp: float
    diameter_um: float
    technology: str


def measure(spots: Spots, *, mpp: float | None, diameter_um: float | None) -> Measured:
    """Find the scale of a sample, or raise if it is unknown or contradicts itself; arguments win."""
    technology = str(spots.meta.get("st_technology") or "unknown")
    kind = technology.lower()
    pitch_um, drawn_um = _nominal(spots.meta, kind)
    if pitch_um is not None and drawn_um is not None and drawn_um >= pitch_um:
        if mpp is None or diameter_um is None:
            raise ValueError(
                f"{spots.file} states spots of {drawn_um:g} µm that are {pitch_um:g} µm apart, so they would overlap. "
                "Look both up in the study, and state `spot_diameter_um=` and `mpp=`."
            )
        pitch_um = None
    mpp = _mpp(spots, pitch_um, mpp)
    if kind in POOLED:
        drawn_um = pitch_px(spots.centers) * mpp
        low, high = SQUARE_UM
        if not low <= drawn_um <= high:
            raise ValueError(
                f"The squares of {technology} in this sample would be {drawn_um:.4g} µm wide (HEST has 100 for most). "
                f"The scale of {spots.file} does not belong to these spots: state `mpp=`."
            )
        logger.info("%s is pooled in squares of %.0f µm: spots are as wide, and no circles.", technology, drawn_um)
    if diameter_um is None and drawn_um is None:
        raise ValueError(
            f"The size of a spot is unknown: {spots.file} states no technology that is known here ({technology!r}) and "
            "no 'spot_diameter'. State `spot_diameter_um=`."
        )
    return Measured(float(mpp), float(diameter_um or drawn_um), technology)  # type: ignore[arg-type]


def _nominal(meta: dict[str, Any], kind: str) -> tuple[float | None, float | None]:
    """Distance and diameter of spots in µm, as far as the technology or the metadata tell."""
    if kind == "visium":
        return PITCH_UM, VISIUM_UM
    stated = [_number(meta.get(key)) for key in ("inter_spot_dist", "spot_diameter")]
    if kind in ("spatial transcriptomics", "st"):
        return stated[0] or ST_PITCH_UM, stated[1] or ST_UM
    # Those of pooled samples describe the instrument, and not the squares in the table.
    return None, None if kind in POOLED else stated[1]


def _mpp(spots: Spots, pitch_um: float | None, mpp: float | None) -> float:
    fitted = None if pitch_um is None else mpp_from_spots(spots.centers, spots.obs, pitch_um)
    stated = _number(spots.meta.get(ESTIMATED))
    if mpp is not None:
        if fitted is not None and abs(mpp / fitted - 1) > SAY:
            logger.warning("The spots give %.4g µm per pixel; `mpp=%.4g` is used instead.", fitted, mpp)
        return mpp
    if spots.shrunk:
        if fitted is None:
            raise ValueError(
                f"The scale is unknown: {spots.file} is for the image before it was shrunk, and the distance between "
                "spots is not known for this technology. State `mpp=`: µm per pixel of the image as it is."
            )
        return fitted
    if stated is None:
        raise ValueError(
            f"The scale is unknown: {spots.file} has no {ESTIMATED!r}, which HEST measured on the spots "
            f"({EMBEDDED!r}, which the image states, is wrong for many samples). State `mpp=`"
            + ("." if fitted is None else f"; the distance between the spots gives {fitted:.4g}.")
        )
    if fitted is not None:
        _compare(stated, fitted, spots.file)
    return stated


def _compare(stated: float, fitted: float, file: str) -> None:
    if abs(stated / fitted - 1) > REFUSE:
        raise ValueError(
            f"The scale contradicts itself: {file} says {stated:.4g} µm per pixel, the distance between the spots "
            f"{fitted:.4g}. Check that metadata, table and image belong together, and state `mpp=`."
        )
    if abs(stated / fitted - 1) > SAY:
        logger.warning("%s says %.4g µm per pixel, the distance between the spots %.4g; the first is used.",
                       file, stated, fitted)  # fmt: skip


def _number(value: Any) -> float | None:
    """Return a number above 0, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < LARGEST else None
