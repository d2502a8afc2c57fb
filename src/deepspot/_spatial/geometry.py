"""Physical geometry of tiles, boxes of pixels around spots, and grids of spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from deepspot.errors import InputError


def _as_tuple(values: Any) -> Any:
    """Convert lists, which zarr returns as arrays."""
    return tuple(values) if isinstance(values, list | np.ndarray) else values


Density = Annotated[float, Field(ge=-1, le=1)]
Strength = Annotated[float, Field(gt=0, le=100)]
Densities = Annotated[tuple[Density, Density, Density], BeforeValidator(_as_tuple)]
Stain = Literal["macenko"]
SubspotsFrom = Literal["tiles", "tokens", "nuclei"]


class StainReference(BaseModel):
    """Stains to which the tiles of every slide are normalized. They belong to a model.

    Attributes
    ----------
    method
        ``"macenko"``: the color and the strength of both stains are replaced.
    hematoxylin, eosin
        Optical densities (natural logarithm) of red, green and blue, of length 1.
    strengths
        99th percentiles of the amounts of hematoxylin and eosin in tissue.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["macenko"] = "macenko"
    hematoxylin: Densities
    eosin: Densities
    strengths: Annotated[tuple[Strength, Strength], BeforeValidator(_as_tuple)]

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if any(abs(np.linalg.norm(stain) - 1) > 0.01 for stain in (self.hematoxylin, self.eosin)):
            raise InputError("the stains of the reference must have the length 1")
        return self


# The reference of Macenko et al. (2009) in their published code. It is fixed: features of all slides and models are
# normalized alike, and nothing of a held-out slide reaches the training.
STAINS = {
    "macenko": StainReference(
        hematoxylin=(0.5626, 0.7201, 0.4062), eosin=(0.2159, 0.8012, 0.5581), strengths=(1.9705, 1.0308)
    )
}


class TileGeometry(BaseModel):
    """Physical size of the tiles that an encoder embeds. It belongs to a model and is the same on every slide.

    Attributes
    ----------
    tile_um
        Side of the spot tile in µm.
    input_px
        Side in pixels to which every tile is resized for the encoder.
    grid
        Sub-spots along one side of a spot (3 gives 3 × 3).
    subspots
        Source of the sub-spot embeddings: ``"tiles"`` of their own, the ``"tokens"`` of the spot tile, averaged over
        the part that shows the sub-spot, or tiles of this size around the ``"nuclei"`` in the inscribed circle of the
        spot tile.
    nuclei_key
        Shapes that are the nuclei; None for ``<image>_nuclei``, those of :func:`deepspot.pp.nuclei`.
    stain
        Stains to which the colors of a slide are normalized before its tiles are embedded; None keeps the colors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_um: float = Field(gt=0)
    input_px: int = Field(gt=0)
    grid: int = Field(default=3, gt=0)
    subspots: SubspotsFrom = "tiles"
    nuclei_key: str | None = None
    stain: StainReference | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the defaults of later fields, so that cards and fingerprints from before them are unchanged."""
        fields: dict[str, Any] = serialize(self)
        if self.subspots == "tiles":
            fields.pop("subspots", None)
        if self.nuclei_key is None:
            fields.pop("nuclei_key", None)
        if self.stain is None:
            fields.pop("stain", None)
        return fields


class NeighborRule(BaseModel):
    """Rule that selects the neighbors of a spot.

    Attributes
    ----------
    kind
        ``"radius"``: distance in µm; ``"box"``: steps in the spot array in both directions, as in the paper.
    reach
        Radius in µm, or number of array steps.
    cap
        Maximum number of neighbors; the nearest are kept.
    pitch_um, layout
        Distance between the training spots, and their array, if known. On an array of another pitch, neighbors are the
        spots nearest to the positions that they would have in this array. The layout is None if the training spots,
        such as cells, form no regular array; then the rule is the same at every pitch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["radius", "box"] = "radius"
    reach: float = Field(gt=0)
    cap: int = Field(default=8, gt=0)
    pitch_um: float | None = Field(default=None, gt=0)
    layout: Literal["hexagonal", "square"] | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit what is unknown, so that cards and fingerprints from before these fields are unchanged."""
        return {name: value for name, value in serialize(self).items() if value is not None}


class Geometry(BaseModel):
    """Geometry of a model: tiles and neighbors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: TileGeometry
    neighbors: NeighborRule


@dataclass(frozen=True)
class Boxes:
    """Squares of one size in one level of an image pyramid."""

    corners: np.ndarray  # (n, 2) int64: row and column of the first pixel, possibly outside of the image
    side: int  # pixels of that level, a multiple of the sub-spot grid
    level: int  # 0 is full resolution

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        return Boxes(self.corners[rows], self.side, self.level)


# A smaller spot tile shows no detail: Space Ranger's "hires" image has 10 to 20 px per spot.
MIN_TILE_PX = 20


def tile_px(tile_um: float, mpp: float) -> float:
    """Return the side of a tile in pixels."""
    return tile_um / mpp


def make_boxes(
    centers: np.ndarray, mpp: float, sizes: Sequence[tuple[int, int]], geometry: TileGeometry, *, name: str = "image"
) -> Boxes:
    """Place tiles around spots, in the coarsest level that shows a sub-spot at the resolution of the encoder.

    `centers` (n, 2) are x and y in pixels of level 0, with `mpp` µm per pixel; `sizes` are height and width of each
    level. Raises InputError if a center is outside of the image, or a tile has fewer than 20 pixels
    or is larger than the image.
    """
    check_inside(centers, sizes[0], name)
    side = tile_px(geometry.tile_um, mpp)
    if side < MIN_TILE_PX:
        raise InputError(
            f"{name} is too coarse: a tile of {geometry.tile_um:g} µm has {side:.1f} px at {mpp:.3g} µm per pixel, at "
            f"least {MIN_TILE_PX} are needed. Use the full-resolution image of the slide scanner."
        )
    if side > max(sizes[0]):
        raise InputError(
            f"A tile of {geometry.tile_um:g} µm is larger than {name} ({sizes[0][1]} × {sizes[0][0]} px at {mpp:.3g} "
            "µm per pixel). Check the scale of the image, and `tile_um` or the diameter of the spots."
        )
    factors = np.asarray(sizes[0]) / np.asarray(sizes)  # per axis: odd sizes are truncated when halved
    sides = side / factors.mean(axis=1)
    enough = np.flatnonzero(sides / geometry.grid >= geometry.input_px)
    level = int(enough[-1]) if len(enough) else 0
    pixels = geometry.grid * max(1, round(sides[level] / geometry.grid))
    return place_boxes(centers, sizes, level, pixels)


def place_boxes(centers: np.ndarray, sizes: Sequence[tuple[int, int]], level: int, side: int) -> Boxes:
    """Place boxes with a side in pixels of a level around `centers` (n, 2), x and y in pixels of level 0."""
    factors = np.asarray(sizes[0]) / np.asarray(sizes[level])
    return Boxes(np.round(centers[:, ::-1] / factors - side / 2).astype(np.int64), side, level)


def check_inside(centers: np.ndarray, size: tuple[int, int], name: str) -> None:
    """Raise if a center (n, 2; x and y) is outside of an image of this height and width."""
    limits = np.array(size[::-1])
    outside = ((centers < 0) | (centers > limits)).any(axis=1)
    if not outside.any():
        return
    x, y = centers[outside][0]
    message = (
        f"{outside.sum()} of {len(centers)} spots lie outside {name} ({limits[0]} × {limits[1]} px), the first at "
        f"x = {x:.0f}, y = {y:.0f}. "
    )
    if ((centers >= 0) & (centers <= limits[::-1])).all():
        raise InputError(message + "With x and y swapped all are inside: swap the two columns of the coordinates.")
    raise InputError(
        message + "Check that image and spots are of one slide and have the same scale (a downscaled image needs its "
        "transformation, or `image_scale=` when it is read), or remove these spots."
    )


def same_aspect(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether an image of this height and width can be a downscaled copy of another one.

    Sizes are rounded, at each of several steps or in a crop: 1 px or 0.2 % are allowed.
    """
    wanted, got = np.asarray(full), np.asarray(size)
    rounded = np.maximum(1, 0.002 * got)
    least, most = wanted / (got + rounded), wanted / np.maximum(got - rounded, 1e-9)
    return bool(least.max() <= most.min())  # a factor that fits both sides


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


LAYOUTS = ("hexagonal", "square")


def spot_grid(width: float, height: float, distance: float, side: float, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Create a centered grid of spots, whose tiles of this `side` are inside of the image.

    The layout ``"hexagonal"`` is numbered as in Visium: spots of a row are two columns apart, and odd rows are shifted
    by one column. Returns centers (n, 2; x and y; float64), row by row, and their array rows and columns (n, 2; int64);
    n is 0 if no tile fits.
    """
    hexagonal = layout == "hexagonal"
    step = (distance / 2, distance * np.sqrt(3) / 2) if hexagonal else (distance, distance)
    free = np.array([width - side, height - side])
    if free.min() < 0:
        return np.empty((0, 2)), np.empty((0, 2), dtype=np.int64)
    # 1,000 µm at 0.1 µm per pixel are 10,000 px only up to rounding, which must not remove the last row.
    columns, rows = (int(steps) + 1 for steps in np.floor(free / step + 1e-6))
    array = np.indices((rows, columns)).reshape(2, -1).T
    if hexagonal:
        array = array[array.sum(axis=1) % 2 == 0]
    used = array.max(axis=0)[::-1] * step
    return array[:, ::-1] * step + side / 2 + (free - used) / 2, array
