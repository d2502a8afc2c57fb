from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot import _boxes, _check, _choose, _coords, _keys, _reader, _store, _tables
from deepspot._fingerprint import digest
from deepspot._geometry import TileGeometry
from deepspot._logging import logger, track
from deepspot._settings import settings

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder

KIND = "features"
# Spots read at once: their tiles and sub-spots are all the pixels that are held beside the image blocks.
SPOTS = 64


def embed(
    sdata: SpatialData,
    encoder: str | Encoder | None = None,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    tile_um: float | None = None,
    subspots: bool = True,
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
        Embed the sub-spots too (nine tenths of the work).
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
        (n, 2) float64, centres as x and y in pixels of the full-resolution image.
    ``uns["deepspot"]``
        Geometry, µm per pixel, encoder card and the fingerprint of image, shapes, geometry and encoder.

    A table that has the same fingerprint is used again; one of the same name with another fingerprint is left alone,
    and the new one goes beside it.

    Raises
    ------
    ValueError
        If the scale is unknown or too coarse, a spot lies outside the image, the image is not RGB uint8, or the result
        would be larger than `settings.max_table_gb`.

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

    ready = encoders.get(encoder)
    if tile_um is not None:
        _check.positive(tile_um, "tile_um")
    image_key, shapes_key = _choose.image_and_shapes(sdata, image_key, shapes_key, tile_um)
    if tile_um is None:
        tile_um = _choose.known_diameter(sdata, shapes_key)
        if tile_um is None:
            raise ValueError(
                f"The size of a spot is unknown: sdata.shapes[{shapes_key!r}] has no column {_keys.DIAMETER!r}. Pass "
                "`tile_um=` (55 for Visium, 100 for Spatial Transcriptomics)."
            )
    geometry = TileGeometry(tile_um=_check.positive(tile_um, "tile_um"), input_px=ready.card.input_px)
    add_features(
        sdata, ready, geometry, image_key=image_key, shapes_key=shapes_key, subspots=subspots,
        coordinate_system=coordinate_system, key_added=key_added, overwrite=overwrite, device=device,
        batch_size=batch_size,
    )  # fmt: skip


def add_features(
    sdata: SpatialData,
    encoder: Encoder,
    geometry: TileGeometry,
    *,
    image_key: str,
    shapes_key: str,
    subspots: bool = True,
    coordinate_system: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
) -> str:
    """Add a feature table, or find the one that says the same. Return its name."""
    from deepspot.encoders._encode import encode_spots

    batch_size = settings.batch_size if batch_size is None else int(_check.positive(batch_size, "batch_size"))
    placement = _coords.place(sdata, image_key, shapes_key, coordinate_system)
    pyramid = _reader.levels(sdata, image_key)
    boxes = _boxes.make_boxes(
        placement.centers, placement.mpp, _reader.sizes(pyramid), geometry, name=f"image {image_key!r}"
    )
    _check_size(len(placement.centers), encoder.card.dim, geometry.grid**2 if subspots else 0)
    fingerprint = digest(
        _reader.fingerprint(pyramid), placement.centers.round(3), placement.mpp, geometry.model_dump(),
        encoder.fingerprint, subspots,
    )  # fmt: skip
    same = _find(sdata, shapes_key, fingerprint)
    if same is not None and not overwrite and key_added in (None, same):
        logger.info("Using sdata.tables[%r]: image, spots, geometry and encoder are the same.", same)
        return same
    key = key_added or _keys.features(encoder.card.name, shapes_key)
    if key_added is None and key in sdata.tables and not overwrite:
        key = f"{key}_{fingerprint[:8]}"
    _store.check_key(sdata, key, overwrite=overwrite)
    array = _tables.array_positions(sdata, shapes_key)

    batches = _reader.read(pyramid[boxes.level], boxes, SPOTS)
    total = -(-len(placement.centers) // SPOTS)
    spot, parts = encode_spots(
        track(batches, f"Embedding {shapes_key}", total=total, unit="batch"),
        len(placement.centers), encoder.to(device), grid=geometry.grid, subspots=subspots,
        batch_size=batch_size,
    )  # fmt: skip
    obsm: dict[str, Any] = {"spatial": placement.centers}
    if parts is not None:
        obsm["subspots"] = parts
    if array is not None:
        obsm["array"] = array
    region_key, instance_key = _tables.link_keys(sdata, shapes_key)
    provenance = {
        "kind": KIND,
        "fingerprint": fingerprint,
        "image_key": image_key,
        "mpp": placement.mpp,
        "geometry": geometry.model_dump(),
        "encoder": encoder.card.model_dump_json(),
        "encoder_fingerprint": encoder.fingerprint,
    }
    table = _store.make_table(
        spot, region=shapes_key, instances=placement.index, region_key=region_key, instance_key=instance_key,
        obsm=obsm, uns={_keys.UNS: provenance},
    )  # fmt: skip
    _store.add_table(sdata, key, table, what="features", overwrite=overwrite)
    return key


def _find(sdata: SpatialData, shapes_key: str, fingerprint: str) -> str | None:
    for key in _tables.annotating(sdata, shapes_key):
        table = sdata.tables[key]
        same = table.uns.get(_keys.UNS, {}).get("fingerprint") == fingerprint
        # Somebody may have cut or sorted the table since: bags rely on one row for each shape, in their order.
        if same and np.array_equal(_tables.rows_of(table, shapes_key), sdata.shapes[shapes_key].index):
            return key
    return None


def _check_size(n: int, dim: int, parts: int) -> None:
    gb = n * dim * (np.dtype(np.float32).itemsize + parts * np.dtype(np.float16).itemsize) / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The features of {n:,} spots would take {gb:.1f} GB in memory, above `ds.settings.max_table_gb` = "
            f"{settings.max_table_gb:g}. Raise the limit, embed a part of the spots, or leave the sub-spots out with "
            "`subspots=False` and a model that does not use them."
        )
