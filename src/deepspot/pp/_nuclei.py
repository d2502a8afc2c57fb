from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deepspot._core.keys import ADD_IMAGE, MORPHOLOGY, UNS, checked, key_in, morphology_name, nuclei_name, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._image.tiles import pyramid_levels
from deepspot._image.tissue import TISSUE_RULES
from deepspot._sdata.shapes import add_shape_columns, add_shapes, check_not_annotated, check_shape_columns
from deepspot._sdata.tables import kind_of
from deepspot._sdata.view import NOUNS, spot_shapes
from deepspot._sdata.write import add_table, check_new_key
from deepspot._spatial.transforms import (
    centers_px,
    microns_per_pixel,
    polygons_in,
    polygons_px,
    share_coordinate_system,
)
from deepspot.errors import InputError

from ._nuclei_blocks import COLUMNS, BlockPlan, measure_given, segment_blocks, tissue_map
from ._nuclei_table import SpotsOfNuclei

if TYPE_CHECKING:
    from spatialdata import SpatialData

MAX_MPP = 1.2


@checked
def nuclei(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    nuclei_key: str | None = None,
    coordinate_system: str | None = None,
    within_um: float | None = None,
    tissue: Literal["brightness", "saturation"] | None = "saturation",
    min_area_um2: float = 10.0,
    max_area_um2: float = 400.0,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Segment the nuclei of an H&E image, and describe them for each spot.

    Classical segmentation with scikit-image, without weights: color deconvolution, a local threshold on the density of
    hematoxylin, and a watershed that separates touching nuclei. It works at 0.5 µm per pixel at every resolution of
    the image, in blocks of about 0.8 mm, so that memory does not depend on the size of the slide. A nucleus belongs to
    the block that contains its centroid. Where nuclei overlap or are out of focus, as in thick frozen sections, several
    are outlined as one. Nuclei of other software, such as Space Ranger, Cellpose or Xenium, can be described instead.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale.
    image_key
        Image; needed only if there are several.
    shapes_key
        Spots to describe: circles or polygons. By default the circles of the image; needed only if there are several.
        An object without spots gets nuclei only.
    nuclei_key
        Existing shapes of nuclei, which are described instead of a segmentation.
    coordinate_system
        Coordinate system that relates image, spots and nuclei; needed only if they share several that disagree.
    within_um
        Segment only the nuclei within this distance of the center of a spot. By default, those of all tissue.
    tissue
        Rule for tissue, in which nuclei are segmented, as in :func:`deepspot.pp.spots`, in tiles of 50 µm. By default
        ``"saturation"``, which excludes ink. None is everywhere.
    min_area_um2, max_area_um2
        Size limits of a nucleus in µm². A lymphocyte has about 30, a large tumor nucleus 200.
    key_added
        Name of the new shapes, by default ``<image>_nuclei``.
    overwrite
        Replace existing elements and columns of these names.

    Returns
    -------
    None. Adds

    ``sdata.shapes[key_added]``
        Polygons in the coordinate systems of the image, with the columns, float64:

        - `area_um2`: area in µm²
        - `eccentricity`: of the ellipse with the same second moments, from 0 (circle) to 1
        - `solidity`: area over that of the convex hull
        - `hematoxylin`, `hematoxylin_std`: mean optical density (log10) of hematoxylin, and its standard deviation
          within the nucleus (texture of the chromatin)

        With `nuclei_key`, these columns are added to the existing shapes. Those that need pixels are missing for nuclei
        outside of the tissue.
    ``sdata.tables[f"nuclei_{shapes_key}"]``
        Morphology of the spots, if there are any.

        - `X`: float32 (n, 6): `nuclei_per_mm2`, the number of centroids in the spot over its area, and the mean of each
          of the columns over these nuclei (NaN without any)
        - ``obs["n_nuclei"]``: int64, number of nuclei
        - ``obsm["spatial"]``: float64 (n, 2), centers as x and y in pixels
        - ``uns["deepspot"]``: `kind` (``"morphology"``), `nuclei`, `image`

    Raises
    ------
    KeyError
        If an element does not exist.
    ValueError
        If image or spots are ambiguous, the scale is unknown or coarser than 1.2 µm per pixel, there is no tissue, an
        argument is out of range, or a name exists.

    References
    ----------
    Ruifrok and Johnston, Analytical and Quantitative Cytology and Histology 2001 (color deconvolution); Niblack, An
    Introduction to Digital Image Processing 1986 (local threshold).

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.pp.nuclei(sdata)
    >>> sdata["nuclei_spots"].var_names.tolist()[:3]
    ['nuclei_per_mm2', 'area_um2', 'eccentricity']
    """
    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key", ADD_IMAGE)
    shapes_key = spots_of_image(sdata, image_key, shapes_key, nuclei_key)
    if tissue is not None and tissue not in TISSUE_RULES:
        raise InputError(f"`tissue` must be one of {list(TISSUE_RULES)}, or None for everywhere, got {tissue!r}.")
    check_positive(min_area_um2, "min_area_um2")
    if max_area_um2 <= min_area_um2:
        raise InputError(f"`max_area_um2` must be above `min_area_um2`, got {max_area_um2:g} and {min_area_um2:g}.")
    if within_um is not None:
        check_positive(within_um, "within_um")
        if shapes_key is None:
            raise InputError("`within_um` is a distance from spots, but there are none. Add them with `ds.pp.spots`.")
    if nuclei_key is not None:
        key_in(nuclei_key, sdata.shapes, "sdata.shapes")
        if key_added is not None or within_um is not None:
            raise InputError("`key_added` and `within_um` are for a segmentation. Leave them out, or `nuclei_key`.")
        known = set(COLUMNS) <= set(sdata.shapes[nuclei_key].columns) and not overwrite
        if not known:
            check_shape_columns(sdata, nuclei_key, COLUMNS, overwrite=overwrite)
    else:
        known, new_key = False, nuclei_name(image_key) if key_added is None else key_added
        if new_key == shapes_key:
            raise InputError(f"{new_key!r} is the name of the spots. Choose another `key_added`.")
        if new_key in sdata.shapes and not overwrite:
            raise InputError(
                f"sdata.shapes[{new_key!r}] exists. Pass `nuclei_key={new_key!r}` to describe these nuclei for other "
                "spots, `overwrite=True` to segment again, or another `key_added`."
            )
        check_new_key(sdata, new_key, overwrite=overwrite, kind="shapes")
        check_not_annotated(sdata, new_key)
    table_key = None if shapes_key is None else morphology_name(shapes_key)
    if table_key is not None:
        if table_key in sdata.tables and not overwrite:
            raise InputError(
                f"sdata.tables[{table_key!r}], the nuclei of the spots {shapes_key!r}, exists: its name is that of the "
                "spots. Pass `overwrite=True` to replace it, or rename it: "
                f"`sdata['other'] = sdata.tables.pop({table_key!r})`."
            )
        check_new_key(sdata, table_key, overwrite=overwrite)
    mpp = microns_per_pixel(sdata, image_key)
    if mpp > MAX_MPP:
        raise InputError(
            f"Image {image_key!r} has {mpp:.3g} µm per pixel, too coarse for nuclei: at most {MAX_MPP} are needed. Use "
            "the full-resolution image of the slide scanner."
        )

    spots = None if shapes_key is None else SpotsOfNuclei(sdata, shapes_key, image_key, coordinate_system)
    pyramid = pyramid_levels(sdata, image_key)
    near = None
    if within_um is not None and shapes_key is not None:
        near = centers_px(sdata, image_key, shapes_key, coordinate_system), within_um / mpp
    plan = BlockPlan.of(pyramid, mpp, tissue_map(pyramid, mpp, tissue, f"Image {image_key!r}"), near)
    if nuclei_key is not None and known:
        columns = sdata.shapes[nuclei_key][list(COLUMNS)]
        logger.info("The nuclei %r have been measured already. `overwrite=True` measures them again.", nuclei_key)
    elif nuclei_key is not None:
        polygons = polygons_px(sdata, image_key, nuclei_key, coordinate_system)
        columns = measure_given(plan, polygons).set_axis(sdata.shapes[nuclei_key].index)
        add_shape_columns(sdata, nuclei_key, columns, overwrite=overwrite)
    else:
        polygons, columns = segment_blocks(plan, min_area_um2, max_area_um2)
        if not len(polygons):
            where = "" if within_um is None else f" within `within_um` = {within_um:g} µm of the center of a spot"
            raise InputError(
                f"Image {image_key!r} shows no nuclei of {min_area_um2:g} to {max_area_um2:g} µm²{where}. Look at the "
                f"image, and check its scale{' and `within_um`' * bool(where)}."
            )
        shapes = polygons_in(sdata, image_key, polygons)
        shapes[list(columns)] = columns.to_numpy()
        add_shapes(sdata, new_key, shapes, what="nuclei", overwrite=overwrite)
        nuclei_key = new_key
        _say_outdated(sdata, nuclei_key, table_key)
    if spots is not None and table_key is not None:
        table = spots.morphology(nuclei_key, columns)
        add_table(sdata, table_key, table, what="features of nuclei", overwrite=overwrite)
        empty = int((table.obs["n_nuclei"] == 0).sum())
        logger.info("%s of %s have no nucleus.", f"{empty:,}", NOUNS["spot"].count(table.n_obs))


def _say_outdated(sdata: SpatialData, nuclei_key: str, table_key: str | None) -> None:
    """Warn of the morphology of other spots, which is that of nuclei that were replaced."""
    tables = [key for key, table in sdata.tables.items() if kind_of(table) == MORPHOLOGY and key != table_key]
    if old := [key for key in tables if sdata.tables[key].uns[UNS].get("nuclei") == nuclei_key]:
        logger.warning(
            "Tables %s describe the nuclei %r of an earlier segmentation. Make them again: "
            "`ds.pp.nuclei(sdata, shapes_key=…, nuclei_key=%r, overwrite=True)`.",
            *(old, nuclei_key, nuclei_key),
        )


def spots_of_image(
    sdata: SpatialData, image_key: str, shapes_key: str | None, nuclei_key: str | None = None
) -> str | None:
    """Return the spots to describe: by default the only circles of the image that are no nuclei, or None."""
    if shapes_key is not None:
        return key_in(shapes_key, sdata.shapes, "sdata.shapes")
    known = [key for key in spot_shapes(sdata) if key != nuclei_key]
    found = [key for key in known if share_coordinate_system(sdata, image_key, key)]
    return one_key(None, found, "circles of the image in sdata.shapes", "shapes_key") if found else None
