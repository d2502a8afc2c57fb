from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PARENT, key_in, one_key
from deepspot._core.logging import logger
from deepspot._sdata.tables import tables_annotating
from deepspot._sdata.view import select_image_and_shapes
from deepspot._sdata.write import add_labels
from deepspot._spatial.transforms import centers_px
from deepspot.errors import InputError, InputTypeError, MissingKeyError

from ._regions import Regions, read, regions_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

GRAY = "#d3d3d3"


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
    """Label spots by the regions that a pathologist drew.

    A spot gets the label of the region that covers its center; on the outline counts as inside. Where regions overlap
    the smallest one wins, as a nest that was drawn inside a tumor lies on top of it.

    Parameters
    ----------
    sdata
        Object with spots.
    regions
        Polygons: the name of a shapes element; the path of a GeoJSON file, such as QuPath's *Export objects as GeoJSON*
        writes; or a GeoDataFrame. A file or a GeoDataFrame holds pixels of the full-resolution image, while an
        element is related to the spots through a coordinate system that both share. Broken outlines are mended; points,
        lines and objects without a label are left out.
    label_key
        Column of the regions with the labels. By default the class that QuPath gave the objects, else their name, else
        the index.
    shapes_key, image_key
        Spots, and the image that a file or a GeoDataFrame belongs to; needed only if there are several.
    coordinate_system
        Coordinate system to relate regions and spots with, should they share several that disagree.
    unlabeled
        Label of the spots outside of all regions. None leaves it missing, so that comparisons leave them out.
    key_added
        Name of the new column.
    overwrite
        Replace columns of that name.

    Returns
    -------
    None. Adds a categorical column ``annotation``, with NaN for spots outside of all regions:

    ``sdata.shapes[<shapes>][key_added]``
        One label for each spot; categories in the order of the regions.
    ``obs[key_added]``
        The same in every table that annotates the spots.
    ``uns[<key_added>_colors]``
        Colors of the classes in these tables, as scanpy keeps them, if the regions have some.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If there is no such element or column.
    ValueError
        If a column exists already, no region has both a label and an area, spots and regions cannot be related, or no
        spot lies inside any region.

    See Also
    --------
    deepspot.tl.markers : Compare the regions. Their means: ``sc.get.aggregate(table, by="annotation", func="mean")``.

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
    name = regions if isinstance(regions, str) and regions in sdata.shapes else None
    shapes_key = _spots(sdata, name, shapes_key)
    if name is not None:
        drawn = regions_of(sdata.shapes[name], label_key)
        centers = centers_px(sdata, name, shapes_key, coordinate_system)
    else:
        drawn = regions_of(_outside(sdata, regions), label_key)
        image_key, shapes_key = select_image_and_shapes(sdata, image_key, shapes_key)
        centers = centers_px(sdata, image_key, shapes_key, coordinate_system)
    found = drawn.cover(centers)
    if (found < 0).all():
        raise InputError(_apart(centers, drawn, shapes_key, name))
    labels = [drawn.labels[region] if region >= 0 else unlabeled for region in found]
    categories = list(dict.fromkeys([*drawn.labels, *([] if unlabeled is None else [unlabeled])]))
    column = pd.Series(pd.Categorical(labels, categories), index=sdata.shapes[shapes_key].index)
    colors = [drawn.colors.get(category, GRAY) for category in categories] if drawn.colors else None
    tables = add_labels(sdata, shapes_key, key_added, column, colors=colors, overwrite=overwrite)
    counts = column.value_counts(sort=False)
    logger.info(
        "Labeled %s of %s spots: %s. Added %r to sdata.shapes[%r] and obs of the tables %s.%s",
        f"{(found >= 0).sum():,}",
        f"{len(found):,}",
        ", ".join(f"{label} {n:,}" for label, n in counts.items()),
        key_added,
        shapes_key,
        tables,
        f" Left out regions: {drawn.left_out}." if drawn.left_out else "",
    )


def _spots(sdata: SpatialData, regions: str | None, shapes_key: str | None) -> str:
    """Name of the shapes to label: those that tables annotate, if there are any."""
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    names = [name for name in sdata.shapes if name != regions]
    spots = [name for name in names if PARENT not in sdata.shapes[name]]
    measured = [name for name in spots if tables_annotating(sdata, name)]
    return one_key(None, measured or spots, "sdata.shapes", "shapes_key")


def _outside(sdata: SpatialData, regions: str | Path | GeoDataFrame) -> GeoDataFrame:
    if not isinstance(regions, str | Path):
        if not hasattr(regions, "geometry"):
            raise InputTypeError(
                "`regions` must be the name of a shapes element, the path of a GeoJSON file, or a GeoDataFrame, got "
                f"{type(regions).__name__}."
            )
        return regions
    if isinstance(regions, str) and not Path(regions).suffix:
        raise MissingKeyError(
            f"Key `{regions!r}` not found in `sdata.shapes`. Available keys: {list(sdata.shapes)}. To read a file, "
            "pass its path with `.geojson` at its end."
        )
    return read(Path(regions))


def _apart(centers: np.ndarray, drawn: Regions, shapes_key: str, name: str | None) -> str:
    def span(x: float, y: float, to_x: float, to_y: float) -> str:
        return f"x {x:,.0f} to {to_x:,.0f}, y {y:,.0f} to {to_y:,.0f}"

    advice = (
        "Are these pixels of another image, or of a downscaled one? QuPath exports those of the full-resolution image."
        if name is None
        else f"Check the transformations of {name!r}, or choose another `coordinate_system=`."
    )
    return (
        f"No spot of {shapes_key!r} lies inside any region. In the same coordinates the spots span "
        f"{span(*centers.min(axis=0), *centers.max(axis=0))}, and the regions {span(*drawn.polygons.total_bounds)}. "
        f"{advice}"
    )
