from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PARENT, checked, key_in, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_path
from deepspot._sdata.tables import tables_annotating
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_labels
from deepspot._spatial.transforms import centers_px, slide_pixels
from deepspot.errors import InputError, InputTypeError, MissingKeyError

from ._regions import Regions, read_geojson, regions_from

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

GRAY = "#d3d3d3"


@checked
def annotate(
    sdata: SpatialData,
    regions: str | Path | GeoDataFrame,
    *,
    label_key: str | None = None,
    shapes_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    unlabeled: str | None = None,
    key_added: str = "annotation",
    overwrite: bool = False,
) -> None:
    """Label spots by the regions of a pathologist.

    A spot gets the label of the region that contains its center, outline included. Where regions overlap, the smallest
    one is used, because nested annotations (an immune infiltrate in a tumor) are drawn on top of each other.

    Parameters
    ----------
    sdata
        Object with spots.
    regions
        Polygons: the name of a shapes element, the path of a GeoJSON file (QuPath: *Export objects as GeoJSON*, also
        compressed as .gz or .zip), or a GeoDataFrame. Coordinates of a file or a GeoDataFrame are pixels of the
        full-resolution image, also if the object has a downscaled or cropped one that a reader of this package made; an
        element is related to the spots by a shared coordinate system. Invalid outlines are repaired; points, lines and
        objects without a label are left out.
    label_key
        Column of the regions with the labels. By default the QuPath class, else the name, else the index.
    shapes_key, image_key
        Spots, and image of a file or a GeoDataFrame; needed only if there are several.
    coordinate_system
        Coordinate system that relates regions and spots; needed only if they share several that disagree.
    unlabeled
        Label of spots outside all regions. With None it is missing, and comparisons leave these spots out.
    key_added
        Name of the new column.
    overwrite
        Replace existing columns of this name.

    Returns
    -------
    None. Adds a categorical column ``annotation``, NaN outside all regions:

    ``sdata.shapes[<shapes>][key_added]``
        Label of each spot; categories in the order of the regions.
    ``obs[key_added]``
        The same in every table that annotates the spots.
    ``uns[<key_added>_colors]``
        Colors of the categories in these tables, in the format of scanpy, if the regions have colors.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    KeyError
        If the element or the column does not exist.
    TypeError
        If `regions` has another type.
    ValueError
        If the column exists, no region has a label and an area, spots and regions cannot be related, or no spot is
        inside a region.

    See Also
    --------
    deepspot.tl.markers : Compare regions. For means use ``sc.get.aggregate(table, by="annotation", func="mean")``.

    Examples
    --------
    >>> import deepspot as ds
    >>> import geopandas as gpd
    >>> from shapely import box
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> drawn = gpd.GeoDataFrame({"name": ["left", "right"]}, geometry=[box(0, 0, 300, 600), box(300, 0, 900, 600)])
    >>> ds.pp.annotate(sdata, drawn)
    >>> sdata.tables["table"].obs["annotation"].value_counts().to_dict()
    {'right': 7, 'left': 5}
    """
    element = regions if isinstance(regions, str) and regions in sdata.shapes else None
    shapes_key = _spots(sdata, element, shapes_key)
    if element is not None:
        drawn = regions_from(sdata.shapes[element], label_key)
        centers = centers_px(sdata, element, shapes_key, coordinate_system)
    else:
        drawn = regions_from(_frame(sdata, regions), label_key)
        if image_key is not None:
            key_in(image_key, sdata.images, "sdata.images")
        of_slide = slide_pixels(sdata, image_key, shapes_key) if coordinate_system is None else None
        if of_slide is None:
            image_key = SlideView.select(sdata, image_key, shapes_key).image_key
            of_slide = centers_px(sdata, image_key, shapes_key, coordinate_system)
        centers = of_slide
    covering = drawn.cover(centers)
    if (covering < 0).all():
        raise InputError(_no_overlap(centers, drawn, shapes_key, element))
    labels = [drawn.labels[region] if region >= 0 else unlabeled for region in covering]
    categories = list(dict.fromkeys([*drawn.labels, *([] if unlabeled is None else [unlabeled])]))
    column = pd.Series(pd.Categorical(labels, categories), index=sdata.shapes[shapes_key].index)
    colors = [drawn.colors.get(category, GRAY) for category in categories] if drawn.colors else None
    tables = add_labels(sdata, shapes_key, key_added, column, colors=colors, overwrite=overwrite)
    logger.info(
        "Labeled %s of %s spots: %s. Added %r to sdata.shapes[%r] and obs of the tables %s.%s",
        f"{(covering >= 0).sum():,}",
        f"{len(covering):,}",
        ", ".join(f"{label} {n:,}" for label, n in column.value_counts(sort=False).items()),
        key_added,
        shapes_key,
        tables,
        f" Left out regions: {drawn.left_out}." if drawn.left_out else "",
    )


def _spots(sdata: SpatialData, regions: str | None, shapes_key: str | None) -> str:
    """Return the name of the shapes to label: those that a table annotates, if there are any."""
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    spots = [name for name in sdata.shapes if name != regions and PARENT not in sdata.shapes[name]]
    annotated = [name for name in spots if tables_annotating(sdata, name)]
    hint = "Add spots with `ds.pp.spots(sdata)`, or read a slide with its spots."
    return one_key(None, annotated or spots, "sdata.shapes", "shapes_key", hint)


def _frame(sdata: SpatialData, regions: str | Path | GeoDataFrame) -> GeoDataFrame:
    if isinstance(regions, str) and not Path(regions).suffix:
        raise MissingKeyError(
            f"Key `{regions!r}` not found in `sdata.shapes`. Available keys: {list(sdata.shapes)}. For a file, pass "
            "its path with the ending `.geojson`."
        )
    if isinstance(regions, str | Path):
        return read_geojson(check_path(regions, "regions"))
    if not hasattr(regions, "sindex"):
        raise InputTypeError(
            "`regions` must be the name of a shapes element, the path of a GeoJSON file, or a GeoDataFrame, got "
            f"{type(regions).__name__}."
        )
    return regions


def _no_overlap(centers: np.ndarray, drawn: Regions, shapes_key: str, element: str | None) -> str:
    def span(x: float, y: float, to_x: float, to_y: float) -> str:
        return f"x {x:,.0f} to {to_x:,.0f}, y {y:,.0f} to {to_y:,.0f}"

    advice = (
        "Are these pixels of another image, or of a downscaled one? QuPath exports pixels of the full-resolution image."
        if element is None
        else f"Check the transformations of {element!r}, or choose another `coordinate_system=`."
    )
    return (
        f"No spot of {shapes_key!r} is inside a region. In the same coordinates the spots span "
        f"{span(*centers.min(axis=0), *centers.max(axis=0))}, and the regions {span(*drawn.polygons.total_bounds)}. "
        f"{advice}"
    )
