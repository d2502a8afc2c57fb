from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.keys import DIAMETER
from deepspot._core.validate import check_positive
from deepspot._features.feature_table import SlideFeatures, subspots_from
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import SubspotsFrom, TileGeometry
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder


def embed(
    sdata: SpatialData,
    encoder: str | Encoder | None = None,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    tile_um: float | None = None,
    subspots: bool | SubspotsFrom = True,
    coordinate_system: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> None:
    """Embed the spot tile and the 3 × 3 sub-spot tiles of every spot with an image encoder.

    Tiles have a physical size: they show the same µm of tissue on every slide, whatever its magnification, and are
    resized to the encoder's input. Every tile is embedded once; beyond the border of the image they are white.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and shapes.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder; by default the embedded one.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    tile_um
        Side of a spot tile in µm; by default the diameter of the tissue that a spot measures.
    subspots
        Whether to embed the sub-spots, and from what. True, or ``"tiles"``: each from a tile of its own (nine tenths of
        the work). ``"tokens"``: from what the encoder sees in the tile of their spot, in one pass for all. Models
        on these are a little less accurate: on the embedded encoder by about 0.01 of r.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    key_added
        Name of the new table, by default ``<encoder>_<shapes>``.
    overwrite
        Replace a table of that name.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    None. Adds a table ``<encoder>_<shapes>`` with one row for each shape, in their order:

    `X`
        (n, d) float32, embedding of the spot tile.
    ``obsm["subspots"]``
        (n, 9, d) float16, embeddings of the sub-spot tiles, row by row from the top left.
    ``obsm["spatial"]``
        (n, 2) float64, centers as x and y in pixels of the full-resolution image.
    ``uns["deepspot"]``
        Geometry, µm per pixel, encoder card and the fingerprint of image, shapes, geometry and encoder.

    A table that has the same fingerprint is used again; one of the same name with another fingerprint is left alone,
    and the new one goes beside it.

    Raises
    ------
    ValueError
        If the scale is unknown or too coarse, a spot lies outside the image, the image is not RGB uint8, the encoder
        gives no tokens but they are asked for, or the result would be larger than `settings.max_table_gb`.

    References
    ----------
    DeepSpot, section 4.2.1 (model input).

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.pp.embed(sdata)
    >>> sdata.tables["lite0_stats_spots"].obsm["subspots"].shape
    (12, 9, 1312)
    """
    from deepspot import encoders

    if tile_um is not None:
        check_positive(tile_um, "tile_um")
    made_from = subspots_from(subspots)
    ready = encoders.get(encoder)
    view = SlideView.select(sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=tile_um)
    side = view.diameter_um if tile_um is None else tile_um
    if side is None:
        raise InputError(
            f"The size of a spot is unknown: sdata.shapes[{view.shapes_key!r}] has no column {DIAMETER!r}. Pass "
            "`tile_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
        )
    geometry = TileGeometry(
        tile_um=check_positive(side, DIAMETER), input_px=ready.card.read_px, subspots=made_from or "tiles"
    )
    features = SlideFeatures(view, ready, geometry, made_from is not None)
    features.plan(key_added=key_added, overwrite=overwrite).add(device=device, batch_size=batch_size)
