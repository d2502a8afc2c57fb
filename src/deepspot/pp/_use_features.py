from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import ADD_IMAGE, FEATURES, UNS, checked, features_name, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive
from deepspot._features.stored import IMPORTED, same_tile
from deepspot._image.tiles import level_sizes
from deepspot._sdata.shapes import add_shapes
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._sdata.write import add_table, check_new_key, make_table
from deepspot._spatial.geometry import TileGeometry, same_aspect
from deepspot._spatial.transforms import Placement, circles_at, microns_per_pixel, slide_mpp, slide_pixels
from deepspot.encoders import EncoderCard
from deepspot.errors import InputError, InputTypeError

from ._feature_files import PatchFeatures, as_array, read_file, read_table

if TYPE_CHECKING:
    from spatialdata import SpatialData

SHOWN = 3
# A patch may differ by this factor from the side that its nominal magnification gives.
FAR = 1.5
SPOTS = "spots"


@checked
def use_features(
    sdata: SpatialData,
    features: str | Path | np.ndarray | None = None,
    *,
    table_key: str | None = None,
    encoder: str | EncoderCard | None = None,
    tile_um: float | None = None,
    tolerance: float = 0.1,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Add features that other software computed, as a feature table of the spots.

    Functions that predict use the table if the model has an encoder of this name and dimension, and tiles of this side
    (within 5 %). :func:`deepspot.models.train` and :func:`deepspot.models.cross_validate` use it if it is named:
    ``keys={"features_key": "uni_spots"}``. The encoder is not loaded, and the object needs no image.

    The features are used as they are. They have no fingerprint, because image, weights and preprocessing are unknown
    here. They have no sub-spots, so only models without sub-spots can use them: train these with
    ``network={"context": ("spot", "neighbors")}``, and compare them with ``tiles={"subspots": False}`` and such a
    context in `grid`, for example ``{"ridge": {"context": [("spot", "neighbors")]}}``.

    Rows are matched to spots by name if the source has names, else by position: a patch belongs to the spot at its
    center.

    Parameters
    ----------
    sdata
        Object with spots and a known scale. If it has an image and no shapes, the patches become its spots.
    features
        HDF5 file of TRIDENT or CLAM (`features`, `coords`) or of HEST-Benchmark (`embeddings`, `barcodes`, `coords`),
        or an array (n, d) with one row for each spot, in the order of the shapes.
    table_key
        Alternative to `features`: table in `sdata` with the features in `X`, such as that of LazySlide. It annotates
        the spots or other shapes, such as tiles with their centers at the spots, or it has the names of the spots in
        ``obs_names``.
    encoder
        Name in :func:`deepspot.encoders.available`, or a card. By default the encoder that the file names.
    tile_um
        Side of a patch in µm. By default the side that the file states in pixels, with the scale of the slide.
        Needed for sources that do not state it: arrays, HEST-Benchmark, and patches of CLAM that are not from level 0.
    tolerance
        Largest distance between a spot and the center of its patch, as a share of the side of a patch.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    coordinate_system
        Coordinate system that relates spots and image; needed only if they share several that disagree.
    key_added
        Name of the new table. Default: ``<encoder>_<shapes>``.
    overwrite
        Replace an existing table of this name.

    Returns
    -------
    None. Adds a table ``<encoder>_<shapes>`` with one row per spot, in the order of the shapes:

    `X`
        (n, d) float32, the features.
    ``obsm["spatial"]``
        (n, 2) float64, centers as x and y in pixels of the full-resolution image.
    ``uns["deepspot"]``
        Geometry, µm per pixel, encoder card, and `imported`: the name of the source.

    If there are no shapes, also circles ``shapes["spots"]`` at the centers of the patches, with the column
    `diameter_um`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    KeyError
        If an element, a table or the encoder does not exist.
    ValueError
        If a spot has no features (the message counts them), the features have another dimension than the encoder,
        values are not finite, the side of a patch is unknown or contradictory, the file is of another slide, or its
        layout is unknown.

    References
    ----------
    Zhang et al., "Accelerating data processing and benchmarking of AI models for pathology", 2025 (TRIDENT). Lu et al.,
    Nature Biomedical Engineering 2021 (CLAM). Jaume et al., "HEST-1k", NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> card = ds.encoders.EncoderCard(name="mine", dim=8)
    >>> ds.pp.use_features(sdata, np.ones((12, 8)), encoder=card, tile_um=55)
    >>> sdata.tables["mine_spots"].shape
    (12, 8)
    """
    if (features is None) == (table_key is None):
        raise InputError("Pass either `features` (a file or an array), or `table_key` (a table in the object).")
    check_positive(tolerance, "tolerance")
    if tile_um is not None:
        check_positive(tile_um, "tile_um")
    patches = read_file(Path(features).expanduser()) if isinstance(features, str | Path) else None
    if not sdata.shapes and patches is not None and patches.corners is not None:
        _add_for_new_spots(sdata, patches, encoder, tile_um, image_key, key_added, overwrite)
        return
    view = SlideView.select(
        sdata, image_key, shapes_key, coordinate_system=coordinate_system, tile_um=tile_um, needs_image=False
    )
    if patches is None:
        patches = as_array(features, len(view.index)) if table_key is None else read_table(view, table_key)
    card = _card(patches, encoder)
    slide = _in_slide(view, patches) if patches.corners is not None else view.placement
    side_um = _tile_um(patches, slide.mpp, tile_um)
    rows = _match(patches, slide, view.shapes_key, tolerance, side_um)
    _add(view, patches, rows, card, side_um, key_added, overwrite)


def _add_for_new_spots(
    sdata: SpatialData,
    patches: PatchFeatures,
    encoder: str | EncoderCard | None,
    tile_um: float | None,
    image_key: str | None,
    key_added: str | None,
    overwrite: bool,
) -> None:
    """Add circles at the patches, and their features."""
    image_key = one_key(image_key, sdata.images, "sdata.images", "image_key", ADD_IMAGE)
    card = _card(patches, encoder)
    factor = _level0_factor(patches, _image_size(sdata, image_key))
    mpp = microns_per_pixel(sdata, image_key)
    side_um = _tile_um(patches, mpp / factor, tile_um)
    centers = np.asarray(patches.corners) / factor + side_um / mpp / 2
    placement = Placement(centers, mpp, pd.RangeIndex(len(centers)))
    check_new_key(sdata, SPOTS, kind="shapes")
    check_new_key(sdata, key_added or features_name(card.name, SPOTS), overwrite=overwrite)
    add_shapes(sdata, SPOTS, circles_at(sdata, image_key, image_key, placement, side_um), what="patches")
    view = SlideView.select(sdata, image_key, SPOTS)
    _add(view, patches, np.arange(len(centers)), card, side_um, key_added, overwrite)


def _add(
    view: SlideView,
    patches: PatchFeatures,
    rows: np.ndarray,
    card: EncoderCard,
    side_um: float,
    key_added: str | None,
    overwrite: bool,
) -> None:
    """Add the rows of the features that belong to the spots, in the order of the spots."""
    values = patches.values[rows]
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise InputError(f"The features of {broken.sum()} of {len(values)} spots are not finite. Compute them again.")
    key = key_added or features_name(card.name, view.shapes_key)
    check_new_key(view.sdata, key, overwrite=overwrite)
    region_key, instance_key = view.link_keys
    geometry = TileGeometry(tile_um=side_um, input_px=card.read_px)
    table = make_table(
        values,
        region=view.shapes_key,
        instances=view.index,
        region_key=region_key,
        instance_key=instance_key,
        obsm={"spatial": view.centers},
        uns={
            UNS: {
                "kind": FEATURES,
                IMPORTED: patches.source,
                "image_key": view.image_key,
                "mpp": view.mpp,
                "geometry": geometry.model_dump(),
                "subspots": "none",
                "encoder": card.model_dump_json(),
            }
        },
    )
    add_table(view.sdata, key, table, what=f"features from {patches.source}", overwrite=overwrite)
    if len(patches.values) > len(rows):
        logger.info("%s patches are at no spot and were left out.", f"{len(patches.values) - len(rows):,}")


def _card(patches: PatchFeatures, encoder: str | EncoderCard | None) -> EncoderCard:
    """Return the card of the encoder; raise if it contradicts the source."""
    from deepspot.encoders._registry import card_named, registered_name

    stated = registered_name(patches.encoder)
    if encoder is None:
        if not patches.encoder:
            raise InputError(
                f"{patches.source} does not name the encoder. Pass `encoder=`: a name in `ds.encoders.available()`, or "
                f"a `ds.encoders.EncoderCard` with dim={patches.values.shape[1]}."
            )
        encoder = stated
    if isinstance(encoder, EncoderCard):
        card: EncoderCard | None = encoder
    elif isinstance(encoder, str):
        card = card_named(encoder)
    else:
        raise InputTypeError(f"`encoder` must be a name or an EncoderCard, got {type(encoder).__name__}.")
    if card is None:
        raise InputError(
            f"Encoder {encoder!r} is not registered. Pass its card: `encoder=ds.encoders.EncoderCard(name={encoder!r}, "
            f"dim={patches.values.shape[1]}, input_px=…)`."
        )
    if patches.encoder and card_named(stated) is not None and card.name != stated:
        raise InputError(f"{patches.source} has features of {stated!r}, not of `encoder` {card.name!r}.")
    if card.dim != patches.values.shape[1]:
        raise InputError(
            f"The features have {patches.values.shape[1]} columns, but encoder {card.name!r} has dimension {card.dim}. "
            "Pass the card of the encoder that made them as `encoder=`."
        )
    return card


def _image_size(sdata: SpatialData, image_key: str) -> tuple[int, int]:
    from deepspot._image.tiles import pyramid_levels

    return level_sizes(pyramid_levels(sdata, image_key))[0]


def _level0_factor(patches: PatchFeatures, size: tuple[int, int]) -> float:
    """Return the pixels of level 0 per pixel of an image of this height and width; 1 if the file does not state it."""
    if patches.size is None:
        return 1.0
    if not same_aspect(patches.size[::-1], size):
        raise InputError(
            f"{patches.source} is of a slide of {patches.size[0]} × {patches.size[1]} px, and the image has "
            f"{size[1]} × {size[0]} px. Check that both are of one slide."
        )
    return patches.size[0] / size[1]


def _in_slide(view: SlideView, patches: PatchFeatures) -> Placement:
    """Return the spots in full-resolution pixels of the slide, in which files of patches are."""
    if view.image_key == NO_IMAGE:
        return view.placement
    if patches.size is not None:
        factor = _level0_factor(patches, level_sizes(view.pyramid)[0])
        return Placement(view.centers * factor, view.mpp / factor, view.index)
    pixels = slide_pixels(view.sdata, view.image_key, view.shapes_key)
    if pixels is None:
        return view.placement
    return Placement(pixels, slide_mpp(view.sdata, view.image_key), view.index)


def _tile_um(patches: PatchFeatures, mpp: float, tile_um: float | None) -> float:
    """Return the side of a patch in µm, that of the source or of the user."""
    if patches.side is None:
        if tile_um is None:
            raise InputError(
                f"The side of a patch is unknown: {patches.source} does not state it in pixels of the full-resolution "
                "image. Pass `tile_um=` (128 for 256 px at 20×, 112 for HEST-Benchmark)."
            )
        return float(tile_um)
    stated = patches.side * mpp
    if tile_um is None and patches.nominal_um is not None and not 1 / FAR < stated / patches.nominal_um < FAR:
        raise InputError(
            f"A patch of {patches.source} has {stated:.4g} µm by the scale of the slide ({mpp:.4g} µm per pixel of the "
            f"full resolution), but {patches.nominal_um:g} µm by its magnification. Check the scale "
            "(`ds.pp.set_scale`), or state the side with `tile_um=`."
        )
    if tile_um is not None and not same_tile(stated, tile_um):
        raise InputError(
            f"By {patches.source} and the scale of the slide, a patch has {stated:.4g} µm, and `tile_um` is "
            f"{tile_um:g}. Check the scale of the image, or leave `tile_um` out."
        )
    return round(stated, 4)


def _match(patches: PatchFeatures, spots: Placement, shapes_key: str, tolerance: float, side_um: float) -> np.ndarray:
    """Return the row of the features (n,) of every spot; raise if one has none."""
    if patches.names is not None:
        known = pd.Index([str(name) for name in patches.names])
        if known.has_duplicates:
            raise InputError(
                f"{patches.source} has several rows of {known[known.duplicated()][0]!r}. Keep one of each."
            )
        found = known.get_indexer(pd.Index([str(name) for name in spots.index]))
        how = f"names like {list(known[:SHOWN])}, the spots like {[str(name) for name in spots.index[:SHOWN]]}"
    elif patches.corners is not None or patches.centers is not None:
        from scipy.spatial import cKDTree

        side = side_um / spots.mpp
        centers = np.asarray(patches.centers) if patches.corners is None else patches.corners + side / 2
        if not len(centers):
            raise InputError(f"{patches.source} has no patches.")
        distance, found = cKDTree(centers).query(spots.centers)
        found = np.where(distance <= tolerance * side, found, -1)
        how = (
            f"their centers are up to {distance.max() * spots.mpp:.4g} µm from the nearest patch, and `tolerance` "
            f"allows {tolerance:g} of its side of {side_um:.4g} µm"
        )
    else:
        return np.arange(len(spots.index))
    lost = found < 0
    if lost.any():
        names = list(spots.index[lost][:SHOWN])
        raise InputError(
            f"{lost.sum()} of {len(found)} spots of {shapes_key!r} have no features in {patches.source}, first "
            f"{names}: {how}. Compute the missing features, or leave these spots out of `sdata.shapes[{shapes_key!r}]`."
        )
    return found
