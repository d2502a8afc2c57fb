"""Spots, cells or bins of a map: where they are, what they are called, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER
from deepspot._sdata.view import Noun, noun_of
from deepspot._spatial import transforms
from deepspot.pl._style import ORANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection, PolyCollection
    from spatialdata import SpatialData

    Shapes = EllipseCollection | PolyCollection

# Diameter as a fraction of the distance between spots, if their size is unknown.
DEFAULT_DIAMETER = 0.55
# Width of the line around places in doubt, as a fraction of their diameter, and its limits in points.
OUTLINE, THINNEST, WIDEST = 0.2, 0.5, 1.5


@dataclass(frozen=True, eq=False)
class Places:
    """Positions (n, 2) of spots, cells or bins in µm, their diameter in µm, and what they are called.

    Circles have this diameter. Polygons have `rings`, their outlines (m, 2) in µm, and `owner`, the place of each ring;
    their diameter is the median of that of circles of the same area.
    """

    xy: np.ndarray
    diameter: float
    noun: Noun
    rings: list[np.ndarray] | None = None
    owner: np.ndarray | None = None

    def draw(
        self,
        ax: Axes,
        values: np.ndarray,
        ood: np.ndarray | None = None,
        *,
        clim: tuple[float, float],
        **style: Any,
    ) -> Shapes:
        """Draw the places with a value (n,), and a line around those with `ood` (n,); return the colored shapes.

        The line is behind the places in doubt and above the others: it covers no value in doubt, and where such places
        touch, it runs around all of them.
        """
        known = np.isfinite(values)
        drawn = self._shapes(ax, known, values, clim=clim, **style)
        ax.add_collection(drawn, autolim=False)
        if ood is not None and (known & ood).any():
            # Half of the line is behind the place.
            width = 2 * float(np.clip(OUTLINE * self.points(ax), THINNEST, WIDEST))
            line = {"facecolors": "none", "edgecolors": ORANGE, "linewidths": width}
            for shapes in (
                self._shapes(ax, known & ood, values, **line),
                self._shapes(ax, known & ood, values, clim=clim, **style),
            ):
                ax.add_collection(shapes, autolim=False)
        return drawn

    @property
    def size(self) -> str:
        """Diameter for a title: polygons other than bins have different ones."""
        about = "about " if self.rings is not None and self.noun.one != "bin" else ""
        return f"{about}{self.diameter:.3g} µm"

    def points(self, ax: Axes) -> float:
        """Return the diameter in points, by the present limits of the axes."""
        figure: Any = ax.get_figure(root=True)
        left, right = ax.get_xlim()
        return self.diameter / abs(right - left) * ax.get_window_extent().width * 72 / figure.dpi

    def _shapes(self, ax: Axes, chosen: np.ndarray, values: np.ndarray, **style: Any) -> Shapes:
        """Return chosen (n,) places as one artist, colored by values (n,) if `style` has no colors."""
        from matplotlib.collections import EllipseCollection, PolyCollection

        if self.rings is None or self.owner is None:
            rows = np.flatnonzero(chosen)
            side = np.full(len(rows), self.diameter)
            placed: dict[str, Any] = {"units": "xy", "offsets": self.xy[rows], "offset_transform": ax.transData}
            shapes: Any = EllipseCollection(side, side, np.zeros_like(side), **placed, **style)
        else:
            kept = np.flatnonzero(chosen[self.owner])
            rows = self.owner[kept]
            # Bins touch: with antialiasing, the image would be visible as a line between them.
            shapes = PolyCollection([self.rings[k] for k in kept], antialiaseds=self.noun.one != "bin", **style)
        if "facecolors" not in style:
            shapes.set_array(values[rows])
        return shapes


def find_places(sdata: SpatialData, image_key: str | None, shapes_key: str) -> Places:
    """Locate the places of a shapes element in µm, from the corner of an image if there is one."""
    import shapely

    to_um = _to_um(sdata, image_key, shapes_key)
    shapes = sdata.shapes[shapes_key]
    xy, noun = to_um(transforms.intrinsic_centers(sdata, shapes_key)), noun_of(sdata, shapes_key)
    known = float(shapes[DIAMETER].median()) if DIAMETER in shapes else None
    if "radius" in shapes:
        return Places(xy, DEFAULT_DIAMETER * transforms.pitch_px(xy) if known is None else known, noun)
    outlines = shapely.transform(shapes.geometry.to_numpy(), to_um)
    parts, owner = shapely.get_parts(outlines, return_index=True)
    corners, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    rings = np.split(corners, np.flatnonzero(np.diff(ring)) + 1)
    diameter = float(np.median(2 * np.sqrt(shapely.area(outlines) / np.pi))) if known is None else known
    return Places(xy, diameter, noun, rings, owner)


def _to_um(sdata: SpatialData, image_key: str | None, shapes_key: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the conversion of positions (n, 2) in the coordinates of shapes to µm."""
    if image_key is None:
        return lambda xy: transforms.positions_um(sdata, shapes_key, xy)
    mpp = transforms.microns_per_pixel(sdata, image_key)
    return lambda xy: mpp * transforms.positions_in(sdata, image_key, shapes_key, xy)
