"""Physical geometry of tiles, and boxes of pixels around spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from deepspot.errors import InputError

SubspotsFrom = Literal["tiles", "tokens"]


class TileGeometry(BaseModel):
    """The physical size of what the encoder sees: fixed by the model, enforced on every slide.

    Attributes
    ----------
    tile_um
        Side of the spot tile in µm of tissue.
    input_px
        Side in pixels to which every tile is resized for the encoder.
    grid
        Sub-spots along one side of a spot (3 gives 3 × 3).
    subspots
        What sub-spots are embedded from: ``"tiles"`` of their own, or the ``"tokens"`` that the encoder makes of the
        spot tile, averaged over the part that shows the sub-spot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_um: float = Field(gt=0)
    input_px: int = Field(gt=0)
    grid: int = Field(default=3, gt=0)
    subspots: SubspotsFrom = "tiles"

    @model_serializer(mode="wrap")
    def _as_ever(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the default out, which there was no other way to do once: cards and fingerprints stay as they were."""
        written: dict[str, Any] = write(self)
        if self.subspots == "tiles":
            written.pop("subspots", None)
        return written


class NeighborRule(BaseModel):
    """Which spots count as the neighbors of a spot.

    Attributes
    ----------
    kind
        ``"radius"``: distance in µm; ``"box"``: steps in the spot array in both directions, as in the paper.
    reach
        The radius in µm, or the number of array steps.
    cap
        At most so many neighbors, the nearest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["radius", "box"] = "radius"
    reach: float = Field(gt=0)
    cap: int = Field(default=8, gt=0)


class Geometry(BaseModel):
    """The geometry contract of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: TileGeometry
    neighbors: NeighborRule


# Below this a spot is a smear: Space Ranger's "hires" image has 10 to 20 px per spot.
MIN_TILE_PX = 20


@dataclass(frozen=True)
class Boxes:
    """Squares of one side in one level of an image.

    Attributes
    ----------
    corners
        (n, 2) int64: row and column of the first pixel; may lie outside the image.
    side
        Side in pixels of that level, a multiple of the sub-spot grid.
    level
        Level of the image pyramid, 0 being full resolution.
    """

    corners: np.ndarray
    side: int
    level: int

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        """Some of them."""
        return Boxes(self.corners[rows], self.side, self.level)


def tile_px(tile_um: float, mpp: float) -> float:
    """Side of a tile in pixels."""
    return tile_um / mpp


def make_boxes(
    centers: np.ndarray, mpp: float, sizes: Sequence[tuple[int, int]], geometry: TileGeometry, *, name: str = "image"
) -> Boxes:
    """Lay tiles around spots, in the coarsest level that still shows a sub-spot at the encoder's resolution.

    `centers` are x and y (n, 2) in pixels of level 0, whose `mpp` is known; `sizes` height and width of every level.
    ValueError, with the `name` of the image, if a center lies outside of it or a tile has fewer than 20 pixels.
    """
    check_inside(centers, sizes[0], name)
    side = tile_px(geometry.tile_um, mpp)
    if side < MIN_TILE_PX:
        raise InputError(
            f"{name} is too coarse: a tile of {geometry.tile_um:g} µm has {side:.1f} px at {mpp:.3g} µm per pixel, at "
            f"least {MIN_TILE_PX} are needed. Use the full-resolution image that the slide scanner wrote."
        )
    factors = np.asarray(sizes[0]) / np.asarray(sizes)  # rows and columns: sizes that are odd are cut when halved
    sides = side / factors.mean(axis=1)
    enough = np.flatnonzero(sides / geometry.grid >= geometry.input_px)
    level = int(enough[-1]) if len(enough) else 0
    pixels = geometry.grid * max(1, round(sides[level] / geometry.grid))
    corners = np.round(centers[:, ::-1] / factors[level] - pixels / 2).astype(np.int64)
    return Boxes(corners=corners, side=pixels, level=level)


def split(tiles: np.ndarray, grid: int) -> np.ndarray:
    """Cut tiles (n, side, side, 3) into sub-spots (n · grid², side / grid, side / grid, 3), row by row."""
    n, side = tiles.shape[:2]
    cut = side // grid
    parts = tiles.reshape(n, grid, cut, grid, cut, tiles.shape[-1]).swapaxes(2, 3)
    return np.ascontiguousarray(parts).reshape(n * grid * grid, cut, cut, tiles.shape[-1])


def central(tiles: np.ndarray, grid: int) -> np.ndarray:
    """Cut the central sub-spot out of tiles (n, side, side, 3); `grid` is odd."""
    cut = tiles.shape[1] // grid
    first = grid // 2 * cut
    return np.ascontiguousarray(tiles[:, first : first + cut, first : first + cut])


def check_inside(centers: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise if a center (n, 2; x and y) lies outside an image of this height and width."""
    height, width = size
    outside = ~_inside(centers, width, height)
    if not outside.any():
        return
    x, y = centers[outside][0]
    message = (
        f"{outside.sum()} of {len(centers)} spots lie outside {name} ({width} × {height} px), the first at "
        f"x = {x:.0f}, y = {y:.0f}. "
    )
    if _inside(centers[:, ::-1], width, height).all():
        raise InputError(message + "With x and y swapped all lie inside: swap the two columns of the coordinates.")
    raise InputError(
        message + "Check that image and spots have the same scale (a downscaled image wants its transformation), or "
        "remove these spots."
    )


def _inside(centers: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.all((centers >= 0) & (centers <= (width, height)), axis=1)


LAYOUTS = ("hexagonal", "square")
# 1,000 µm at 0.1 µm per pixel are 10,000 px only up to rounding: a last row must not depend on it.
ROUNDING = 1e-6


def spot_grid(width: float, height: float, distance: float, side: float, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Lay an array of spots over an image, in the middle of it.

    Centers lie at a `distance`; every tile, of this `side`, lies inside the image as a whole, so that none is filled up
    with white. The layout ``"hexagonal"`` is numbered as Visium, where the next spot of a row is two columns away, and
    odd rows are shifted by one. Returns centers (n, 2; x and y; float64), row by row, and their rows and columns in the
    array (n, 2; int64); n is 0 if not even one tile fits.
    """
    hexagonal = layout == "hexagonal"
    step = (distance / 2, distance * np.sqrt(3) / 2) if hexagonal else (distance, distance)
    room = np.array([width - side, height - side])
    if room.min() < 0:
        return np.empty((0, 2)), np.empty((0, 2), dtype=np.int64)
    columns, rows = (int(steps) + 1 for steps in np.floor(room / step + ROUNDING))
    row, col = (axis.ravel() for axis in np.indices((rows, columns)))
    if hexagonal:
        there = (row + col) % 2 == 0
        row, col = row[there], col[there]
    array = np.column_stack([row, col])
    taken = array.max(axis=0)[::-1] * step
    return array[:, ::-1] * step + side / 2 + (room - taken) / 2, array
