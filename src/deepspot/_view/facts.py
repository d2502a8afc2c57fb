"""Facts of the viewer about the places of a slide: outlines, groups, out-of-distribution scores, texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._sdata.tables import labels_of, match_rows
from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError
from deepspot.pl._map.coloring import label_colors
from deepspot.pl._map.tiles import tile_side
from deepspot.pl._map.values import label_positions, ood_spots

from .pack import NONE, pack

if TYPE_CHECKING:
    from deepspot._report.contents import SlideContents
    from deepspot.pl._map.places import Places

MOST_OUTLINED = 20_000
"""Places up to which the outlines of groups are drawn: the union of more takes long, and their lines are crowded."""
LARGEST_STEP = 16_000


def color_map(name: str) -> str:
    """Return 256 colors of a color map of matplotlib as base64 of RGB."""
    import base64

    import matplotlib as mpl

    rgba = mpl.colormaps[name](np.linspace(0, 1, 256), bytes=True)
    return base64.b64encode(np.ascontiguousarray(rgba[:, :3]).tobytes()).decode("ascii")


def doubts(slide: SlideContents) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return facts about the spots that are out of distribution, with packed scores and marks; None if unknown."""
    for key in (slide.prediction_key, slide.corrected_key):
        marks = None if key is None else ood_spots(slide.sdata, slide.shapes_key, key)
        if marks is None:
            continue
        table = slide.sdata.tables[str(key)]
        score = np.full(slide.n_spots, np.nan, dtype=np.float32)
        if "ood_score" in table.obs:
            rows, positions = match_rows(table, slide.sdata, slide.shapes_key)
            score[positions] = table.obs["ood_score"].to_numpy(dtype=np.float32)[rows]
        known = score[np.isfinite(score)]
        high = max(1.2, float(np.quantile(known, 0.99))) if len(known) else None
        facts = {"count": int(marks.sum()), "high": high}
        return facts, {"ood": pack(marks.astype(np.uint8)), "ood-scores": pack(score)}
    return None, {}


def groups(
    slide: SlideContents, groupby: str | None, places: Places, mpp: float
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Return labels, colors and outlines of groups, with the packed label of every place; None without groups."""
    if groupby is None:
        return None, {}
    key = str(slide.table_with_labels(groupby))
    names = [str(name) for name in labels_of(slide.sdata, key, groupby).cat.categories]
    if len(names) >= NONE:
        raise InputError(f"Column {groupby!r} has {len(names):,} labels; the viewer can show {NONE - 1}.")
    labels = label_positions(slide.sdata, key, slide.shapes_key, groupby)
    codes = labels.cat.codes.to_numpy().astype(np.int64)  # of pandas: int8, which cannot hold 255
    facts = {
        "name": groupby,
        "labels": names,
        "colors": list(label_colors(slide.sdata.tables[key], groupby, names).values()),
        "counts": [int((codes == code).sum()) for code in range(len(names))],
    }
    if slide.n_spots <= MOST_OUTLINED:
        facts |= _outlines(codes, len(names), places, mpp)
    return facts, {"groups": pack(np.where(codes < 0, NONE, codes).astype(np.uint8))}


def _outlines(codes: np.ndarray, n: int, places: Places, mpp: float) -> dict[str, list[Any]]:
    """Return the outlines of each group in pixels, and the place and radius for its name.

    The area of a group is near to its places, and nearer to them than to others: neighboring groups have a common line.
    """
    import shapely

    xy = places.xy / mpp
    if len(xy) < 2:
        return {"outlines": [], "anchors": []}
    pitch = pitch_px(xy)
    points = shapely.points(xy)
    # Half of the diagonal of a square grid, and a bit more: no holes between spots.
    near = shapely.union_all(shapely.buffer(points, 0.75 * pitch, quad_segs=3))
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(xy), extend_to=near))
    place, cell = shapely.STRtree(cells).query(points, predicate="intersects")
    outlines: list[Any] = []
    anchors: list[Any] = []
    for code in range(n):
        area = shapely.intersection(shapely.union_all(cells[np.unique(cell[codes[place] == code])]), near)
        rings = shapely.get_rings(shapely.get_parts(area))
        # Of irregular grids, the small gaps between spots are left out.
        rings = rings[shapely.area(shapely.polygons(rings)) > 0.3 * pitch**2]
        outlines.append([np.round(shapely.get_coordinates(ring), 1).tolist() for ring in rings])
        anchors.append(None if shapely.is_empty(area) else _anchor(area, pitch))
    return {"outlines": outlines, "anchors": anchors}


def _anchor(area: Any, pitch: float) -> list[float]:
    """Return the center and the radius of the largest circle in the largest part of an area."""
    import shapely

    parts = shapely.get_parts(area)
    largest = parts[np.argmax(shapely.area(parts))]
    radius = shapely.maximum_inscribed_circle(largest, tolerance=0.2 * pitch)
    (x, y), *_ = shapely.get_coordinates(radius)
    return [round(float(each), 1) for each in (x, y, shapely.length(radius))]


def shapes(places: Places, mpp: float, factor: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the kind and diameter of places, with their packed outlines; `factor` is that of the finest level.

    Corners that move an outline by less than half a pixel of that level are left out.
    """
    facts: dict[str, Any] = {"kind": "circle", "diameter": places.diameter / mpp}
    if places.rings is None or places.owner is None:
        return facts, {}
    import shapely

    center = (places.xy / mpp).astype(np.float32).astype(np.float64)
    closed = shapely.linearrings([ring / mpp for ring in places.rings])
    simple = shapely.simplify(closed, 0.5 * factor)
    corners, ring = shapely.get_coordinates(simple, return_index=True)
    last = np.append(ring[1:] != ring[:-1], True)  # repeats the first corner
    corners, ring = corners[~last], ring[~last]
    away = corners - center[places.owner[ring]]
    unit = max(0.25 * factor, float(np.abs(away).max()) / LARGEST_STEP)
    steps = np.round(away / unit).astype(np.int64)
    first = np.append(True, ring[1:] != ring[:-1])
    steps[1:] -= np.where(first[1:, None], 0, steps[:-1].copy())
    counts = np.bincount(ring, minlength=len(places.rings))
    packed = {
        "ring-owners": pack(places.owner.astype(np.uint32)),
        "ring-counts": pack(counts.astype(np.uint16)),
        "ring-steps": pack(steps.astype(np.int16)),
    }
    return facts | {"kind": "polygon", "unit": unit}, packed


def card_side(slide: SlideContents, places: Places) -> float:
    """Return the side of the image in the card of a place in µm: the tile of the model, else three diameters."""
    try:
        return tile_side(slide.sdata, slide.table_keys[0], slide.shapes_key, None)
    except InputError:
        return 3 * places.diameter
