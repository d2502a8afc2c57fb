from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import ADD_IMAGE, ARTIFACT, DIAMETER, artifacts_name, checked, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._image.quality import ARTIFACTS, MEASURES, quality_map
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.shapes import add_shapes, check_not_annotated, drop_shapes
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_labels, check_labels, check_new_key
from deepspot._spatial.geometry import check_inside
from deepspot._spatial.transforms import microns_per_pixel, polygons_in
from deepspot.errors import InputError

from ._covered import MIN_COVER, covered
from ._nuclei import MAX_MPP, spots_of_image

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData


@checked
def quality(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    tile_um: float | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Find regions of an H&E image that are out of focus, folded or marked with a pen, and describe every spot.

    The slide is divided into squares of 50 µm. Focus is measured at 1 µm per pixel, in blocks of 1 mm with tissue; all
    else in a downscaled image. Memory does not depend on the resolution of the slide. Focus and darkness are relative
    to the tissue of the same slide: a slide of which more than half is out of focus is not recognized.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale.
    image_key
        Image; needed only if there are several.
    shapes_key
        Spots to describe. By default the circles of the image; needed only if there are several. An object without
        spots gets regions only, which :func:`deepspot.pp.spots` leaves out.
    coordinate_system
        Coordinate system that relates spots and image; needed only if they share several that disagree.
    tile_um
        Side of the tile of a spot in µm. By default the width of the spots.
    key_added
        Name of the regions, by default ``<image>_artifacts``. :func:`deepspot.pp.spots` uses the regions with the
        default name.
    overwrite
        Replace existing regions and columns of these names.

    Returns
    -------
    None. Adds

    ``sdata.shapes[key_added]``
        Polygons of the bad regions in the coordinate systems of the image, with the columns `artifact`
        (``"blurred"``, ``"folded"`` or ``"pen"``) and `area_um2` (float64). Not added if there are none.
    Columns of the spots
        In the shapes and in `obs` of all tables that annotate them, for the tile of each spot:

        - `focus`: float64, variance of the Laplacian over its median in the tissue of the slide. Below 0.15 is blurred.
        - `darkness`: float64, optical density over its 90th percentile in the tissue. Above 1.25 is folded.
        - `pen`, `background`: float64, share of the area with ink, and without tissue or ink
        - `artifact`: categorical, the artifact whose regions cover most of the tile, if all cover at least half of it;
          ``"none"`` otherwise

        `focus` and `darkness` are NaN for tiles without tissue.

    Raises
    ------
    KeyError
        If an element does not exist.
    ValueError
        If image or spots are ambiguous, the scale is unknown or coarser than 1.2 µm per pixel, the image is not RGB
        uint8, there is no tissue, the size of the spots is unknown, or a name exists.

    References
    ----------
    Pech-Pacheco et al., International Conference on Pattern Recognition 2000 (variance of the Laplacian); the limits
    and their accuracy are in the page "Quality control".

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.pp.quality(sdata)
    >>> sdata.tables["table"].obs["artifact"].value_counts().to_dict()
    {'none': 12, 'blurred': 0, 'folded': 0, 'pen': 0}
    """
    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key", ADD_IMAGE)
    shapes_key = spots_of_image(sdata, image_key, shapes_key)
    key = artifacts_name(image_key) if key_added is None else key_added
    check_new_key(sdata, key, overwrite=overwrite, kind="shapes")
    if key == shapes_key:
        raise InputError(f"{key!r} is the name of the spots. Choose another `key_added`.")
    if key in sdata.shapes:
        check_not_annotated(sdata, key)
    mpp = microns_per_pixel(sdata, image_key)
    if mpp > MAX_MPP:
        raise InputError(
            f"Image {image_key!r} has {mpp:.3g} µm per pixel, too coarse to measure focus: at most {MAX_MPP} are "
            "needed. Use the full-resolution image of the slide scanner."
        )
    pyramid, view, side = pyramid_levels(sdata, image_key), None, 0.0
    if shapes_key is not None:
        for name in (*MEASURES, ARTIFACT):
            check_labels(sdata, shapes_key, name, overwrite=overwrite)
        view = SlideView(sdata, image_key, shapes_key, coordinate_system)
        width = view.width_um if tile_um is None else tile_um
        if width is None:
            raise InputError(
                f"The size of a spot is unknown: sdata.shapes[{shapes_key!r}] has no column {DIAMETER!r}. Pass "
                "`tile_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
            )
        side = check_positive(width, "tile_um") / view.mpp
        check_inside(view.centers, level_sizes(pyramid)[0], f"image {image_key!r}")

    found = quality_map(pyramid, mpp, f"Image {image_key!r}")
    outlines = found.outlines()
    polygons = np.array([one for name in ARTIFACTS for one in outlines[name]], dtype=object)
    kinds = np.repeat(ARTIFACTS, [len(outlines[name]) for name in ARTIFACTS])
    if len(polygons):
        shapes = polygons_in(sdata, image_key, polygons)
        shapes[ARTIFACT] = kinds.astype(object)
        shapes["area_um2"] = shapes.area.to_numpy() * mpp**2
        areas = shapes.groupby(ARTIFACT)["area_um2"].sum() / 1e6
        what = f"regions with artifacts ({', '.join(f'{name} {area:.2f} mm²' for name, area in areas.items())})"
        add_shapes(sdata, key, shapes, what=what, overwrite=overwrite)
    else:
        drop_shapes(sdata, key)
        logger.info("Image %r has no regions that are blurred, folded or marked with a pen.", image_key)
    if view is not None:
        _describe(view, found.of_tiles(view.centers, side), covered(polygons, kinds, view.centers, side), overwrite)


def _describe(view: SlideView, measures: dict[str, np.ndarray], cover: pd.DataFrame, overwrite: bool) -> None:
    """Add the columns of the spots from their measures (n,) and the share of their tiles in regions (n, kinds)."""
    import pandas as pd

    worst = cover.reindex(columns=ARTIFACTS, fill_value=0.0)
    labels = np.where(worst.sum(axis=1) >= MIN_COVER, worst.idxmax(axis=1), "none")
    verdict = pd.Series(pd.Categorical(labels, ["none", *ARTIFACTS]), index=view.index)
    for name, values in measures.items():
        add_labels(view.sdata, view.shapes_key, name, pd.Series(values, view.index), overwrite=overwrite)
    tables = add_labels(view.sdata, view.shapes_key, ARTIFACT, verdict, overwrite=overwrite)
    logger.info(
        "Quality of %s spots: %s. Added %s to sdata.shapes[%r] and obs of the tables %s.",
        f"{len(verdict):,}",
        ", ".join(f"{name} {n:,}" for name, n in verdict.value_counts(sort=False).items()),
        [*MEASURES, ARTIFACT],
        view.shapes_key,
        tables,
    )
