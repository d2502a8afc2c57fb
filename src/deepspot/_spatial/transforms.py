"""Transformations of SpatialData: the only file that uses them. Converts spots of any coordinate system to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import DIAMETER, MICRONS, PIXELS
from deepspot.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


@dataclass(frozen=True)
class Placement:
    """Positions of spots in an image."""

    centers: np.ndarray  # (n, 2) float64: x and y in pixels of full resolution; the first pixel's center is (0.5, 0.5)
    mpp: float  # µm per pixel of full resolution
    index: pd.Index  # index of the shapes element, in the same order


def place_spots(sdata: SpatialData, image_key: str, shapes_key: str, coordinate_system: str | None = None) -> Placement:
    """Locate the spots of a shapes element in an image of known scale."""
    return Placement(
        centers=centers_px(sdata, image_key, shapes_key, coordinate_system),
        mpp=microns_per_pixel(sdata, image_key),
        index=sdata.shapes[shapes_key].index,
    )


def place_without_image(sdata: SpatialData, shapes_key: str) -> Placement:
    """Locate the spots of a slide without an image, in its pixels if its reader recorded them, else as they are."""
    known = _affines(sdata[shapes_key])
    if MICRONS not in known:
        raise InputError(
            f"The scale of shapes {shapes_key!r} is unknown: the object has no image, and the shapes have no "
            f"coordinate system {MICRONS!r}. Set it with `ds.pp.set_scale(sdata, mpp=<µm per pixel>)`."
        )
    pixels = known.get(sdata.attrs.get(PIXELS), np.eye(3))
    centers = _apply(pixels, intrinsic_centers(sdata, shapes_key))
    return Placement(centers, _stretch(known[MICRONS]) / _stretch(pixels), sdata.shapes[shapes_key].index)


# Coordinate systems may differ by rounding: half a pixel in images, 0.01 % of the extent of shapes.
AGREE_PX = 0.5
AGREE_SHARE = 1e-4


def centers_px(sdata: SpatialData, image_key: str, shapes_key: str, coordinate_system: str | None = None) -> np.ndarray:
    """Return the centers (n, 2) of shapes as x and y in pixels of an image, for any affine transformation.

    If `image_key` names shapes, such as outlines of regions, the centers are in the coordinates of these.
    """
    return positions_in(sdata, image_key, shapes_key, intrinsic_centers(sdata, shapes_key), coordinate_system)


def positions_in(
    sdata: SpatialData, image_key: str, key: str, xy: np.ndarray, coordinate_system: str | None = None
) -> np.ndarray:
    """Convert positions (n, 2) in the coordinates of shapes or points to those of an image or of other shapes."""
    paths = _paths(sdata, image_key, key, coordinate_system)
    centers, *others = [_apply(path, xy) for path in paths.values()]
    worst = max((np.abs(other - centers).max(initial=0) for other in others), default=0.0)
    image = image_key in sdata.images
    if worst > (AGREE_PX if image else AGREE_SHARE * np.ptp(centers)):
        raise InputError(
            f"Coordinate systems {list(paths)} place the {_noun(sdata, key)} up to {worst:.1f}{' px' * image} apart "
            f"in {_noun(sdata, image_key)}. Choose one with `coordinate_system=`."
        )
    return centers


def n_inside(sdata: SpatialData, image_key: str, shapes_key: str, size: tuple[int, int]) -> int:
    """Count the shapes with a center inside of an image of this height and width.

    If coordinate systems disagree, the largest count is returned: `coordinate_system` is chosen later.
    """
    xy = intrinsic_centers(sdata, shapes_key)
    places = [_apply(path, xy) for path in _paths(sdata, image_key, shapes_key, None).values()]
    return max(int(((place >= 0) & (place <= size[::-1])).all(axis=1).sum()) for place in places)


def matching_centers(sdata: SpatialData, image_keys: list[str], shapes_key: str) -> list[np.ndarray]:
    """Return the centers (n, 2) of shapes in pixels of each image, by a coordinate system of all if there is one."""
    xy = intrinsic_centers(sdata, shapes_key)
    paths = [_paths(sdata, key, shapes_key, None) for key in image_keys]
    common = [name for name in paths[0] if all(name in path for path in paths)]
    return [_apply(path[common[0]] if common else next(iter(path.values())), xy) for path in paths]


def intrinsic_centers(sdata: SpatialData, shapes_key: str) -> np.ndarray:
    """Return the centers (n, 2) of shapes in their own coordinates, whose unit is unknown."""
    shapes = sdata.shapes[shapes_key]
    points = shapes.geometry.centroid
    xy = np.column_stack([points.x, points.y]).astype(np.float64)
    broken = ~np.isfinite(xy).all(axis=1)
    if broken.any():
        raise InputError(
            f"{broken.sum()} of {len(xy)} shapes in {shapes_key!r} have no finite coordinates, first at index "
            f"{shapes.index[broken][0]!r}. Remove them first."
        )
    return xy


def centers_um(sdata: SpatialData, shapes_key: str) -> np.ndarray:
    """Return the centers (n, 2) of shapes in µm, without an image."""
    return positions_um(sdata, shapes_key, intrinsic_centers(sdata, shapes_key))


def positions_um(sdata: SpatialData, key: str, xy: np.ndarray) -> np.ndarray:
    """Convert positions (n, 2) in the coordinates of shapes or points to µm, without an image."""
    return _apply(_to_microns(sdata, key), xy)


def um_per_own_unit(sdata: SpatialData, key: str) -> float:
    """Return the µm per unit of the coordinates of shapes or points, without an image."""
    return _stretch(_to_microns(sdata, key))


def circles_at_um(sdata: SpatialData, key: str, centers: np.ndarray, diameter_um: float) -> GeoDataFrame:
    """Create circles at positions (n, 2) in µm, in the coordinates and with all transformations of shapes or points."""
    import pandas as pd

    to_microns = _to_microns(sdata, key)
    own = Placement(_apply(np.linalg.inv(to_microns), centers), _stretch(to_microns), pd.RangeIndex(len(centers)))
    return circles_at(sdata, key, key, own, diameter_um)


def _to_microns(sdata: SpatialData, key: str) -> np.ndarray:
    known = _affines(sdata[key])
    if MICRONS not in known:
        raise InputError(
            f"The {_noun(sdata, key)} have no coordinate system {MICRONS!r}, so their positions in µm are unknown. "
            "Set the scale of the slide with `ds.pp.set_scale`."
        )
    return known[MICRONS]


def circles_at(
    sdata: SpatialData,
    image_key: str,
    shapes_key: str,
    placement: Placement,
    diameter_um: float,
    coordinate_system: str | None = None,
) -> GeoDataFrame:
    """Create circles at pixels of an image, in the coordinates and with all transformations of `shapes_key`.

    `shapes_key` names shapes or, for a slide without shapes, the image itself.
    """
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    path = next(iter(_paths(sdata, image_key, shapes_key, coordinate_system).values()))
    back = np.linalg.inv(path)
    stretch = _stretch(back)
    made = ShapesModel.parse(
        _apply(back, placement.centers),
        geometry=0,
        radius=diameter_um / placement.mpp / 2 * stretch,
        index=placement.index,
        transformations=dict(get_transformation(sdata[shapes_key], get_all=True)),
    )
    made[DIAMETER] = float(diameter_um)
    return made


def polygons_in(sdata: SpatialData, image_key: str, polygons: np.ndarray) -> GeoDataFrame:
    """Create shapes of polygons (n,) in pixels of an image, with all its transformations."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    transformations = dict(get_transformation(sdata[image_key], get_all=True))
    return ShapesModel.parse(GeoDataFrame(geometry=polygons), transformations=transformations)


def polygons_px(
    sdata: SpatialData, image_key: str, shapes_key: str, coordinate_system: str | None = None
) -> np.ndarray:
    """Return the outlines (n,) of shapes in pixels of an image."""
    import shapely

    shapes = sdata.shapes[shapes_key]
    outlines = shapes.geometry if "radius" not in shapes else shapes.geometry.buffer(shapes["radius"])
    return shapely.transform(
        outlines.to_numpy(), lambda xy: positions_in(sdata, image_key, shapes_key, xy, coordinate_system)
    )


def _paths(sdata: SpatialData, image_key: str, shapes_key: str, coordinate_system: str | None) -> dict[str, np.ndarray]:
    """Return the matrices from shapes to pixels of an image, by the shared coordinate system that each uses."""
    image, shapes = (_affines(sdata[key]) for key in (image_key, shapes_key))
    shared = [name for name in shapes if name in image]
    noun = _noun(sdata, image_key)
    if coordinate_system is not None and coordinate_system not in shared:
        raise InputError(
            f"Coordinate system {coordinate_system!r} is not shared by {noun} and shapes {shapes_key!r}. They share "
            f"{shared}."
        )
    chosen = _relating(image, shapes) if coordinate_system is None else [coordinate_system]
    if not chosen:
        microns = f" (each has its own {MICRONS!r})" if shared else ""
        raise InputError(
            f"{noun[0].upper()}{noun[1:]} ({list(image)}) and shapes {shapes_key!r} ({list(shapes)}) share no "
            f"coordinate system{microns}, so the positions of the spots in the image are unknown. Choose an image of "
            "the same slide, or relate them with `spatialdata.transformations.set_transformation`."
        )
    return {name: np.linalg.inv(image[name]) @ shapes[name] for name in chosen}


def has_scale(sdata: SpatialData, image_key: str) -> bool:
    """Check whether an image has a scale in µm."""
    return MICRONS in _affines(sdata[image_key])


def share_coordinate_system(sdata: SpatialData, image_key: str, shapes_key: str) -> bool:
    """Check whether an image and a shapes element share a coordinate system."""
    return bool(_relating(_affines(sdata[image_key]), _affines(sdata[shapes_key])))


def um_per_unit(sdata: SpatialData, image_key: str, shapes_key: str) -> float:
    """Return the µm per unit of the coordinate system that relates an image of known scale to shapes."""
    image = _affines(sdata[image_key])
    system = _relating(image, _affines(sdata[shapes_key]))[0]
    return microns_per_pixel(sdata, image_key) / _stretch(image[system])


def slide_pixels(
    sdata: SpatialData, image_key: str | None, shapes_key: str, xy: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the centers (n, 2) of shapes in full-resolution pixels of the slide, if its reader recorded these.

    With `xy` (n, 2), positions in the coordinates of the shapes are converted instead. With `image_key`, only if the
    image is a downscaled copy; the pixels of another image are its own.
    """
    system, shapes = sdata.attrs.get(PIXELS), _affines(sdata[shapes_key])
    if system not in shapes:
        return None
    if image_key is not None:
        to_slide = _affines(sdata[image_key]).get(system, np.eye(3))
        if _stretch(to_slide) <= 1 or not np.allclose(to_slide, np.diag([*[_stretch(to_slide)] * 2, 1.0]), rtol=0.02):
            return None
    return _apply(shapes[system], intrinsic_centers(sdata, shapes_key) if xy is None else xy)


def has_slide_pixels(sdata: SpatialData, image_key: str) -> bool:
    """Check whether the pixels of an image are the full-resolution pixels of the slide that its reader recorded."""
    known = _affines(sdata[image_key])
    system = sdata.attrs.get(PIXELS)
    return system in known and np.allclose(known[system], np.eye(3))


def slide_mpp(sdata: SpatialData, image_key: str) -> float:
    """Return the µm per full-resolution pixel of the slide, for a slide and an image with :func:`slide_pixels`."""
    return microns_per_pixel(sdata, image_key) / _stretch(_affines(sdata[image_key])[sdata.attrs[PIXELS]])


def microns_per_pixel(sdata: SpatialData, image_key: str) -> float:
    """Return the µm per pixel of a full-resolution image, from its transformation to the µm coordinate system."""
    known = _affines(sdata[image_key])
    if MICRONS not in known:
        raise InputError(
            f"The scale of image {image_key!r} is unknown: it has no coordinate system {MICRONS!r}. Set it "
            f"with `ds.pp.set_scale(sdata, image_key={image_key!r}, mpp=<µm per pixel>)` or, if the distance between "
            "neighboring spots is known, with `pitch_um=` (100 for Visium)."
        )
    along = np.linalg.svd(known[MICRONS][:2, :2], compute_uv=False)
    if along[0] > 1.02 * along[1]:
        raise InputError(
            f"Pixels of image {image_key!r} are not square: {along[0]:.4g} by {along[1]:.4g} µm. Resample the image, "
            f"or correct its transformation to {MICRONS!r}."
        )
    return float(np.sqrt(along.prod()))


def write_scale(sdata: SpatialData, image_key: str, mpp: float) -> list[str]:
    """Set the scale of an image and of all elements that share a coordinate system with it. Return their names."""
    return _write_system(sdata, image_key, np.diag([mpp, mpp, 1.0]), MICRONS)


def write_pixels(sdata: SpatialData, image_key: str, name: str) -> None:
    """Add the pixels of an image as a coordinate system of all elements that share another one with it."""
    _write_system(sdata, image_key, np.eye(3), name)


def _write_system(sdata: SpatialData, key: str, matrix: np.ndarray, system: str) -> list[str]:
    """Set the system to which a matrix leads from an element, for all related elements too. Return their names."""
    known = _affines(sdata[key])
    related = [key]
    _set_affine(sdata[key], matrix, system)
    for _, name, element in list(sdata.gen_spatial_elements()):
        systems = _affines(element)
        shared = _relating(known, systems)
        if name != key and shared:
            _set_affine(element, matrix @ np.linalg.inv(known[shared[0]]) @ systems[shared[0]], system)
            related.append(name)
    return related


def pitch_px(points: np.ndarray) -> float:
    """Return the distance between neighboring spots: the median over the first ring around each point (n, 2)."""
    from scipy.spatial import cKDTree

    if len(points) < 2:
        raise InputError("The distance between spots cannot be measured on fewer than two spots. Pass `mpp` instead.")
    distance, _ = cKDTree(points).query(points, k=range(2, min(len(points), 7) + 1))
    # With jitter, the nearest neighbor alone is biased. The second ring is at 1.41 (square) or 1.73 (hexagonal).
    nearest = np.median(distance[:, 0])
    if nearest == 0:
        raise InputError("Half of the spots or more have the position of another one. Keep one row for each spot.")
    return float(np.median(distance[distance < 1.3 * nearest]))


def pitch_from_array(points: np.ndarray, array: np.ndarray) -> float:
    """Return the pixels per step, fitted to array positions (n, 2) in units of the pitch."""
    design = np.column_stack([array, np.ones(len(array))])
    if np.linalg.matrix_rank(design) < 3:
        return pitch_px(points)  # a single row or column of spots
    pitch = _stretch(np.linalg.lstsq(design, points, rcond=None)[0])
    if not pitch > 0:
        raise InputError("The positions of the spots do not follow their array. Check that both are of one slide.")
    return pitch


def scaling(factor: float) -> Any:
    """Return the transformation that scales x and y."""
    from spatialdata.transformations import Scale

    return Scale([factor, factor], axes=("x", "y"))


def affine(matrix: np.ndarray) -> Any:
    """Return the transformation of x and y by a matrix (3, 3)."""
    from spatialdata.transformations import Affine

    return Affine(matrix, ("x", "y"), ("x", "y"))


def _noun(sdata: SpatialData, key: str) -> str:
    kind = "image" if key in sdata.images else "points" if key in sdata.points else "shapes"
    return f"{kind} {key!r}"


def _relating(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[str]:
    """Return the coordinate systems that relate two elements.

    µm is derived from the other systems of an element. It relates two elements only if one of them has no other;
    otherwise, the origins of two slides would be the same place.
    """
    shared = [name for name in second if name in first]
    derived = min(len(first), len(second)) > 1
    return [name for name in shared if name != MICRONS] or ([] if derived else shared)


def _affines(element: Any) -> dict[str, np.ndarray]:
    from spatialdata.transformations import get_transformation

    known = get_transformation(element, get_all=True)
    return {name: known[name].to_affine_matrix(("x", "y"), ("x", "y")) for name in known}


def _set_affine(element: Any, matrix: np.ndarray, system: str) -> None:
    from spatialdata.transformations import set_transformation

    set_transformation(element, affine(matrix), to_coordinate_system=system)


def _stretch(matrix: np.ndarray) -> float:
    """Return the mean factor by which a matrix scales lengths."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _apply(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return xy @ matrix[:2, :2].T + matrix[:2, 2]
