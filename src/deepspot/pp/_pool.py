from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from deepspot._core.keys import ARRAY, DIAMETER, checked, counts_name, key_in, one_key, pooled_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_positive
from deepspot._sdata.shapes import add_shapes
from deepspot._sdata.tables import find_measured_table, is_deepspot_table, link_keys, regions_of
from deepspot._sdata.write import add_columns, add_table, check_entries, check_new_key, make_table
from deepspot._spatial.geometry import LAYOUTS, spot_grid
from deepspot._spatial.transforms import circles_at_um, positions_in
from deepspot.errors import InputError

from ._containing import finder, in_circles
from ._pool_sources import Pooled, ShapeCounts, SpotOf, Transcripts

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

VISIUM_DIAMETER_UM, VISIUM_PITCH_UM = 55.0, 100.0
# Column of the shapes that were pooled into a spot.
POOLED_FROM = "pooled_from"
MOST_SPOTS = 5_000_000


@checked
def pool(
    sdata: SpatialData,
    *,
    shapes_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    points_key: str | None = None,
    gene_key: str | None = None,
    into_key: str | None = None,
    coordinate_system: str | None = None,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Literal["square", "hexagonal"] = "hexagonal",
    min_counts: int = 1,
    link_key: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Pool the counts of bins, cells or transcripts into spots.

    Makes spots of the size of Visium, or any other, from Visium HD, Xenium and similar slides, so that a model of spots
    can be trained or evaluated on them. A shape belongs to the spot that contains its centroid, and the raw counts of
    the shapes of a spot are added up as whole numbers. No count is used twice: where spots overlap, a shape belongs to
    the spot with the nearest center. The slide needs no image, but a scale in µm.

    Parameters
    ----------
    sdata
        Object with bins or cells and a table of their raw counts, or with transcripts.
    shapes_key
        Shapes to pool; needed only if several have measured counts.
    table_key, layer
        Table of the raw counts, needed only if several annotate the shapes, and its layer (by default `X`).
    points_key
        Transcripts to pool instead of shapes: points with a row for each. They are read in partitions. All rows are
        counted: remove transcripts of low quality and control probes from the element before.
    gene_key
        Column of the points with the gene; by default that which the element names (`feature_key`).
    into_key
        Existing shapes that are the spots: circles, of their `diameter_um` if they have this column, or polygons. By
        default, a new grid of spots.
    coordinate_system
        Coordinate system that relates both, with `into_key`; needed only if they share several that disagree.
    diameter_um
        Diameter of a new spot. None is 55, that of Visium.
    pitch_um
        Distance between the centers of new spots. None is 100, that of Visium.
    layout
        ``"hexagonal"`` grid as in Visium, or ``"square"``. The grid is centered on the shapes or points, in the axes of
        the µm coordinate system.
    min_counts
        Spots with fewer counts are left out of the table, and new ones also out of the shapes.
    link_key
        New column in `obs` of the pooled table, with the spot of each shape. By default, it is not stored.
    key_added
        Name of the new spots, by default ``<shapes>_spots``; their table is called ``<spots>_counts``. With `into_key`,
        name of the table, by default ``<into_key>_counts``.
    overwrite
        Replace existing elements and columns of these names.

    Returns
    -------
    None. Adds

    ``sdata.shapes[key_added]``
        Circles in all coordinate systems of the pooled element, with the columns `diameter_um`, and `array_row` and
        `array_col` as :func:`deepspot.pp.spots` numbers them. Not with `into_key`.
    ``sdata.tables[f"{key_added}_counts"]``
        Table of these spots.

        - `X`: counts (n, g), CSR, int32, or int64 where a sum is larger
        - ``obs["n_pooled"]``: int64, shapes or transcripts in the spot
        - ``obs["pooled_from"]``: categorical, the pooled element
        - other columns of `obs`: those of the pooled table that have one value
        - `var`: text columns of the pooled table, such as identifiers of genes
    ``obs[link_key]`` of the pooled table
        categorical: spot of the shape, missing if it is in none.

    The number and share of counts that are in no spot are logged. The pooled table is unchanged otherwise.

    Raises
    ------
    KeyError
        If an element, layer or column does not exist.
    ValueError
        If shapes or table are ambiguous, the scale is unknown, the values are no counts, an argument is out of range,
        no spot has enough counts, or a name exists.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=8, n_cols=8)["P1_S1"]
    >>> ds.pp.pool(sdata, diameter_um=220, pitch_um=200, key_added="large")
    >>> int(sdata["large_counts"].obs["n_pooled"].max())
    4
    """
    if points_key is not None:
        given = {"shapes_key": shapes_key, "table_key": table_key, "layer": layer, "link_key": link_key}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise InputError(f"Transcripts (`points_key`) are pooled without {wrong}. Leave these out.")
        source: ShapeCounts | Transcripts = Transcripts(sdata, points_key, gene_key)
    else:
        if gene_key is not None:
            raise InputError("`gene_key` is a column of transcripts. Pass `points_key` too, or leave it out.")
        shapes_key = _measured_shapes(sdata, shapes_key, table_key, into_key)
        table_key = find_measured_table(sdata, shapes_key, table_key)
        source = ShapeCounts(sdata, shapes_key, table_key, layer)
        if link_key is not None:
            check_entries(sdata, table_key, "obs", [link_key], overwrite=overwrite, argument="link_key")
    check_count(min_counts, "min_counts")
    if into_key is None:
        spots_key = pooled_name(source.key) if key_added is None else key_added
        counts_key = counts_name(spots_key)
        check_new_key(sdata, spots_key, overwrite=overwrite, kind="shapes")
    else:
        if diameter_um is not None or pitch_um is not None:
            raise InputError("`diameter_um` and `pitch_um` describe new spots. Leave them out, or `into_key`.")
        spots_key = key_in(into_key, sdata.shapes, "sdata.shapes")
        counts_key = counts_name(spots_key) if key_added is None else key_added
    check_new_key(sdata, counts_key, overwrite=overwrite)
    if source.key == spots_key or table_key == counts_key:
        raise InputError(f"{source.key!r} cannot be pooled into itself. Choose other shapes, or another `key_added`.")

    if into_key is None:
        spots, spot_of = _new_spots(sdata, source, diameter_um, pitch_um, layout)
    else:
        spots, find = sdata.shapes[into_key], finder(sdata, into_key)

        def spot_of(xy: np.ndarray) -> np.ndarray:
            return find(positions_in(sdata, into_key, source.key, xy, coordinate_system))

    pooled = source.pool(spot_of, len(spots))
    depth = np.asarray(pooled.counts.sum(axis=1)).ravel()
    kept = depth >= min_counts
    if not kept.any():
        raise InputError(
            f"None of {len(spots):,} spots has at least {min_counts:,} counts; the highest number is {depth.max():,}. "
            "Check that both are of one slide, the size of the spots, and `min_counts`."
        )
    table = _table(sdata, source, pooled, spots, kept, spots_key)
    if into_key is None:
        what = f"spots of {spots[DIAMETER].iloc[0]:g} µm"
        add_shapes(sdata, spots_key, spots[kept], what=what, overwrite=overwrite, own=[counts_key])
    add_table(sdata, counts_key, table, what=f"genes pooled from {source.key!r}", overwrite=overwrite)
    n, total = int(pooled.n_pooled.sum()) + pooled.n_outside, int(depth.sum()) + pooled.counts_outside
    logger.info(
        "%s of %s %s of %r (%.1f %%), with %s of %s counts (%.1f %%), are in no spot.%s",
        *(f"{pooled.n_outside:,}", f"{n:,}", source.noun, source.key, 100 * pooled.n_outside / max(n, 1)),
        *(f"{pooled.counts_outside:,}", f"{total:,}", 100 * pooled.counts_outside / max(total, 1)),
        _dropped(depth, kept, min_counts),
    )
    if link_key is not None and table_key is not None and isinstance(source, ShapeCounts):
        column = source.link(pooled.spot, spots.index, kept, link_key)
        add_columns(sdata, table_key, column, what=f"{link_key!r}", slot="obs", overwrite=overwrite)


def _measured_shapes(sdata: SpatialData, shapes_key: str | None, table_key: str | None, into_key: str | None) -> str:
    """Return the shapes to pool: by default the only ones, other than the spots, with a measured table."""
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    tables = [name for name, table in sdata.tables.items() if not is_deepspot_table(table)]
    # Spots of an earlier call are pooled only if there is nothing else.
    tables = [name for name in tables if POOLED_FROM not in sdata.tables[name].obs] or tables
    if table_key is not None:
        tables = [key_in(table_key, sdata.tables, "sdata.tables")]
    regions = dict.fromkeys(region for name in tables for region in regions_of(sdata, name))
    names = [name for name in regions if name != into_key]
    hint = (
        "Read bins or cells with their counts (`ds.io.visium_hd`, `ds.io.xenium`), or name transcripts: `points_key=`."
    )
    return one_key(None, names, "shapes with a measured table", "shapes_key", hint)


def _new_spots(
    sdata: SpatialData,
    source: ShapeCounts | Transcripts,
    diameter_um: float | None,
    pitch_um: float | None,
    layout: str,
) -> tuple[GeoDataFrame, SpotOf]:
    """Return circles in a grid over the source, and the function that finds the circle of a position."""
    if layout not in LAYOUTS:
        raise InputError(f"`layout` must be one of {list(LAYOUTS)}, got {layout!r}.")
    diameter = float(check_positive(VISIUM_DIAMETER_UM if diameter_um is None else diameter_um, "diameter_um"))
    pitch = float(check_positive(VISIUM_PITCH_UM if pitch_um is None else pitch_um, "pitch_um"))
    low, high = source.extent_um()
    width, height = high - low
    where = f"{source.noun} {source.key!r} of {width:,.0f} × {height:,.0f} µm"
    if diameter > min(width, height):
        raise InputError(f"No spot of {diameter:g} µm fits into {where}. Choose a smaller one, or check the scale.")
    if width * height > MOST_SPOTS * pitch**2:
        raise InputError(f"`pitch_um={pitch:g}` gives more than {MOST_SPOTS:,} spots in {where}. Check the scale.")
    if source.side_um() > diameter:
        raise InputError(
            f"Spots of {diameter:g} µm are smaller than the {source.noun} {source.key!r} of {source.side_um():.3g} µm. "
            "Choose a larger `diameter_um`, or check the scale."
        )
    centers, array = spot_grid(width, height, pitch, diameter, layout)
    circles = circles_at_um(sdata, source.key, centers + low, diameter)
    circles[list(ARRAY)] = array
    return circles, in_circles(circles, float(circles["radius"].iloc[0]))


def _table(
    sdata: SpatialData,
    source: ShapeCounts | Transcripts,
    pooled: Pooled,
    spots: GeoDataFrame,
    kept: np.ndarray,
    spots_key: str,
) -> AnnData:
    import pandas as pd

    counts = pooled.counts[kept]
    if counts.max() <= np.iinfo(np.int32).max:
        counts = counts.astype(np.int32)
    instances = spots.index[kept]
    obs = pd.DataFrame({"n_pooled": pooled.n_pooled[kept]}, index=instances.astype(str))
    obs[POOLED_FROM] = pd.Categorical([source.key] * len(obs))
    region, instance = link_keys(sdata, spots_key)
    for name, values in source.constants().items():
        if name not in (*obs, region, instance):
            obs[name] = pd.Categorical([values] * len(obs)) if isinstance(values, str) else values
    return make_table(
        counts, region=spots_key, instances=instances, region_key=region, instance_key=instance, obs=obs, var=pooled.var
    )


def _dropped(depth: np.ndarray, kept: np.ndarray, min_counts: int) -> str:
    n, lost = int(((depth > 0) & ~kept).sum()), int(depth[~kept].sum())
    if not n:
        return ""
    return f" {n:,} spots with fewer than {min_counts:,} counts are left out ({lost:,} counts)."
