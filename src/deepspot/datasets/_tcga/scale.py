"""The scale of slides that the authors predicted: laid out in pixels, which only the slide's header turns into µm."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepspot._core.logging import logger

from .content import Content

# The authors shrink the small image by 10 at 40x and by 5 at 20x.
MAGNIFICATION = {10: ("40x", 0.25), 5: ("20x", 0.5)}
FAR = 1.2


def shrinkage(content: Content, centers: np.ndarray) -> float | None:
    """How many times fewer pixels the small image has along a side, from both sets of coordinates."""
    if content.spatial is None or content.spatial.shape != centers.shape or not len(centers):
        return None
    factor = float(np.linalg.norm(centers)) / (float(np.linalg.norm(content.spatial)) or 1.0)
    if not np.allclose(content.spatial * factor, centers, atol=max(1.0, factor)):
        logger.warning("The small image does not belong to the places of the spots and is left out.")
        return None
    return factor


def microns(content: Content, shrunk: float | None, sample: str, mpp: float | None) -> float:
    """µm per pixel of the slide: what was stated, else what the file says."""
    likely = MAGNIFICATION.get(round(shrunk)) if shrunk is not None else None
    if mpp is not None:
        if likely is not None and not 1 / FAR <= mpp / likely[1] <= FAR:
            logger.warning("%s seems to be of %s, with about %g µm per pixel; `mpp=%g` is used instead.",
                           sample, *likely, mpp)  # fmt: skip
        return float(mpp)
    said = [value for value in content.stated.values() if 0 < value < float("inf")]
    if said:
        return said[0]
    hint = "" if likely is None else f" The small image is shrunk as at {likely[0]}: about {likely[1]:g}."
    raise ValueError(
        f"The scale of {sample} is unknown: the file does not state it. Pass `mpp=`: µm per pixel of the slide, which "
        f"the header of its .svs states as 'aperio.MPP'.{hint} (Profiles do not depend on it, maps and distances do.)"
    )


def grid(obs: pd.DataFrame) -> float | None:
    """Side of the authors' tiles in pixels: the first lies one side and one pixel from the edge of the slide."""
    if not {"x_array", "y_array"} <= set(obs.columns):
        return None
    sides = []
    for axis in "xy":
        number, pixel = (obs[f"{axis}_{what}"].to_numpy(dtype=float) for what in ("array", "pixel"))
        if np.ptp(number) == 0:
            continue
        step, start = np.polyfit(number, pixel, 1)
        if np.abs(start + step * number - pixel).max() > 0.5:
            return None
        sides.append(round(start) - 1)
    return float(sides[0]) if sides and min(sides) == max(sides) > 0 else None
