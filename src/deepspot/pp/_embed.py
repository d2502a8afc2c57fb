from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from deepspot._core.keys import DIAMETER, checked, key_in
from deepspot._core.validate import check_positive
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import STAINS, Stain, SubspotsFrom, TileGeometry
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder


@checked
def embed(
    sdata: SpatialData,
    encoder: str | Encoder | None = None,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    tile_um: float | None = None,
    subspots: SubspotsFrom | Literal[False] = "tiles",
    nuclei_key: str | None = None,
    stain: Stain | None = None,
    coordinate_system: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> None:
    """Embed the tile and the sub-spots of every spot with an image encoder: 3 × 3 tiles, or its nuclei.

    Tiles have a physical size: they show the same µm of tissue at every magnification, and are resized to the input of
    the encoder. Every tile is embedded once. Pixels outside the image are white.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and spots.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder. Default: the embedded encoder.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    tile_um
        Side of a spot tile in µm. By default the diameter of the spots.
    subspots
        How sub-spots are embedded. ``"tiles"``: each from its own tile (90 % of the computation). ``"tokens"``:
        from the tokens of the spot tile, in one pass for spot and sub-spots. Models on tokens are slightly less
        accurate: r is lower by about 0.01 with the embedded encoder. ``"nuclei"``: the nuclei whose centroids are in
        the circle with the diameter `tile_um`, each from a tile of a third of that side around its centroid. With
        them r was lower by 0.005 on toy slides. False: not at all.
    nuclei_key
        Shapes of nuclei, with ``"nuclei"``. By default ``<image>_nuclei``, those of :func:`deepspot.pp.nuclei`.
    stain
        ``"macenko"``: normalize the colors of hematoxylin and eosin to a fixed reference before tiles are embedded.
        Both stains are estimated once, on squares of tissue that are spread over the slide. None keeps the colors.
        Whether this helps depends on the slides, see the page "Quality control".
    coordinate_system
        Coordinate system that relates spots and image; needed only if they share several that disagree.
    key_added
        Name of the new table. Default: ``<encoder>_<shapes>``.
    overwrite
        Replace an existing table of this name.
    device
        Device for the encoder. None is the device of the settings, else CUDA, MPS or CPU.
    batch_size
        Number of tiles per batch. None is that of the settings.

    Returns
    -------
    None. Adds a table ``<encoder>_<shapes>`` with one row per spot, in the order of the shapes:

    `X`
        (n, d) float32, embeddings of the spot tiles.
    ``obsm["subspots"]``
        (n, 9, d) float16, embeddings of the sub-spot tiles, row by row from the top left. With ``"nuclei"`` (n, s, d),
        in the order of the shapes; s is the largest number of nuclei in a spot, and other spots are padded with 0.
    ``obsm["subspots_present"]``
        Only with ``"nuclei"``: (n, s) bool, which of the sub-spots exist. A spot without nuclei has none.
    ``obsm["spatial"]``
        (n, 2) float64, centers as x and y in pixels of the full-resolution image.
    ``uns["deepspot"]``
        Geometry, µm per pixel, encoder card, and a fingerprint of image, shapes, geometry and encoder, and of the
        centroids of nuclei.

    An existing table with the same fingerprint is reused. A table of the same name with another fingerprint is kept,
    and the new table gets a name with its fingerprint appended.

    Raises
    ------
    KeyError
        If an element or the encoder does not exist, or there are no shapes of nuclei for ``"nuclei"``.
    ValueError
        If the scale is unknown or too coarse, a spot is outside the image, the image is not RGB uint8, `subspots` is
        ``"tokens"`` but the encoder returns no tokens, no spot has a nucleus, `nuclei_key` is given without
        ``"nuclei"``, the stains of the slide cannot be estimated, or the result is larger than `settings.max_table_gb`.

    References
    ----------
    DeepSpot, section 4.2.1 (model input). Macenko et al., International Symposium on Biomedical Imaging 2009 (stains).

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
    if subspots is not False:
        key_in(subspots, get_args(SubspotsFrom), "subspots")
    if stain is not None:
        key_in(stain, STAINS, "stain")
    if nuclei_key is not None and subspots != "nuclei":
        raise InputError(f"`nuclei_key` is for `subspots='nuclei'`, but `subspots` is {subspots!r}. Leave one out.")
    ready = encoders.get(encoder)
    view = SlideView.select(sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=tile_um)
    side = view.diameter_um if tile_um is None else tile_um
    if side is None:
        raise InputError(
            f"The size of a spot is unknown: sdata.shapes[{view.shapes_key!r}] has no column {DIAMETER!r}. Pass "
            "`tile_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
        )
    geometry = TileGeometry(
        tile_um=check_positive(side, DIAMETER),
        input_px=ready.card.read_px,
        subspots=subspots or "tiles",
        nuclei_key=nuclei_key,
        stain=None if stain is None else STAINS[stain],
    )
    features = SlideFeatures(view, ready, geometry, subspots is not False)
    features.plan(key_added=key_added, overwrite=overwrite).add(device=device, batch_size=batch_size)
