from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot import _check, _choose, _coords, _tables
from deepspot._geometry import Geometry, NeighborRule, TileGeometry
from deepspot._logging import logger
from deepspot._neighbors import check_array

from ._bags_of import bags_of
from ._slides import as_mapping, measure, patients_of
from ._training_set import choose_genes, targets, training_set

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

# Reaches the first ring of neighbours, diagonals too, in a hexagonal and in a square array.
RINGS = 1.5


@dataclass(frozen=True)
class _Keys:
    image: str
    shapes: str
    table: str


def train(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    patient_key: str | Mapping[str, str] | None = None,
    genes: int | Sequence[str] = 5000,
    min_detected: float = 0.0,
    encoder: str | Encoder | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    coordinate_system: str | None = None,
    tile_um: float | None = None,
    radius_um: float | None = None,
    preset: str = "default",
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    name: str = "deepspot",
    tissue: str = "",
    licence: str = "unknown",
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    checkpoint_dir: str | Path | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
) -> DeepSpot:
    """Train a model on slides with measured genes.

    Raw counts are normalised to log1p of counts per 10,000 (slides with different panels: over the genes that all
    share), and every gene is standardised. With several patients a fifth of them, at least one, is held out to find the
    number of epochs; then the model is fitted to all. With one patient that number is fixed, as more training on a
    patient hurts the next one.

    Parameters
    ----------
    sdatas
        One slide, a list, or a mapping from names to slides.
    patient_key
        Column of the tables' `obs` with the patient, or a mapping from slide names to patients. Needed with several
        slides.
    genes
        Names of the genes to learn, or how many of the most variable ones (Seurat v3, batch by slide).
    min_detected
        Share of the spots of every slide in which a gene has to be seen to be among the most variable; on shallow data
        these are mostly noise without it.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder; by default the embedded one.
    image_key, shapes_key, table_key
        Image, spots and measured genes; needed only where a slide has several.
    layer
        Layer with the raw counts; by default `X`.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    tile_um
        Side of a spot tile in µm; by default the diameter of the tissue that a spot measures.
    radius_um
        Spots up to this distance in µm are neighbours, at most 8, the nearest first; by default 1.5 times the distance
        between spots. The presets ``"paper"`` and ``"published"`` take a box of the spot array instead, unless a radius
        is given.
    preset
        ``"default"``, ``"paper"`` or ``"published"``; see :class:`deepspot.models.DeepSpot`.
    network, training
        Fields of the preset to change, such as ``{"context": ("spot",)}`` or ``{"loss": "poisson"}``.
    name, tissue, licence
        For the card of the model.
    seed
        Same seed, same weights on the same machine. None falls back to the settings.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.
    checkpoint_dir
        Folder for the state of an unfinished training; the same call resumes from it.
    trainer_kwargs
        Further arguments of Lightning's Trainer, such as ``{"devices": 4, "strategy": "ddp"}``.

    Returns
    -------
    The fitted model. Feature tables are added to the slides (see :func:`deepspot.pp.embed`), nothing else.

    Raises
    ------
    ValueError
        If counts are not raw, the slides share too few genes, patients are not stated, or the scale is unknown.
    KeyError
        If a named gene, column, table or layer does not exist.

    References
    ----------
    DeepSpot, sections 4.1 and 4.2.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=4, n_cols=5)
    >>> model = ds.tl.train(slides, patient_key="patient", genes=20, network={"members": 1})
    >>> len(model.card.genes)
    20
    """
    from deepspot import encoders, models
    from deepspot._device import choose_device
    from deepspot.models._card import TrainingSlide
    from deepspot.models._config import look_up
    from deepspot.pp._features import Request, add_features, plan_features

    slides = as_mapping(sdatas)
    if tile_um is not None:
        _check.positive(tile_um, "tile_um")
    for argument, text in {"name": name, "tissue": tissue, "licence": licence}.items():
        _check.text(text, argument)
    keys = {slide: _keys_of(slide, sdata, image_key, shapes_key, table_key, tile_um) for slide, sdata in slides.items()}
    patients = patients_of({slide: sdata.tables[keys[slide].table] for slide, sdata in slides.items()}, patient_key)
    model = models.DeepSpot(preset=preset, network=network, training=training, seed=seed, device=device)
    choose_device(device)
    ready = encoders.get(encoder)
    geometry = Geometry(
        tile=TileGeometry(tile_um=_tile(slides, keys, tile_um), input_px=ready.card.input_px),
        neighbors=_neighbors(slides, keys, radius_um, look_up(preset).array_box, coordinate_system),
    )
    measured = [
        measure(slide, sdata, keys[slide].shapes, keys[slide].table, patient=patients[slide], layer=layer)
        for slide, sdata in slides.items()
    ]
    chosen = choose_genes(measured, genes, min_detected)
    expression, depth = targets(measured, chosen)
    plans = {}
    for slide, sdata in slides.items():
        check_array(geometry.neighbors, _tables.array_positions(sdata, keys[slide].shapes))
        request = Request(
            ready, geometry.tile, keys[slide].image, keys[slide].shapes, "subspots" in model.network.context,
            coordinate_system,
        )  # fmt: skip
        plans[slide] = plan_features(sdata, request)

    # Everything has been checked; now the hours of embedding begin.
    features = {slide: add_features(plan, device=device, batch_size=batch_size) for slide, plan in plans.items()}
    bags = {slide: bags_of(sdata, features[slide], keys[slide].shapes, geometry.neighbors)
            for slide, sdata in slides.items()}  # fmt: skip
    data = training_set(measured, bags, expression)
    model.fit(
        data.bags, data.targets, genes=chosen, checkpoint_dir=checkpoint_dir, trainer_kwargs=trainer_kwargs,
        **data.options,
    )  # fmt: skip
    model.card = model.card.model_copy(  # type: ignore[union-attr]
        update={
            "name": name,
            "tissue": tissue,
            "licence": licence,
            "depth": depth,
            "geometry": geometry,
            "encoder": ready.card,
            "encoder_fingerprint": ready.fingerprint,
            "slides": [TrainingSlide(slide=s.name, patient=s.patient, spots=len(s.rows)) for s in measured],
        }
    )
    logger.info("Trained %r for %d epochs.", model, model.card.epochs)
    return model


def _keys_of(
    name: str, sdata: SpatialData, image: str | None, shapes: str | None, table: str | None, tile_um: float | None
) -> _Keys:
    try:
        image, shapes = _choose.image_and_shapes(sdata, image, shapes, tile_um)
        return _Keys(image, shapes, _tables.measured_key(sdata, shapes, table))
    except (KeyError, ValueError) as error:
        error.add_note(f"This happened on slide {name!r}.")
        raise


def _tile(slides: Mapping[str, SpatialData], keys: Mapping[str, _Keys], tile_um: float | None) -> float:
    if tile_um is not None:
        return tile_um
    sides = {name: _choose.known_diameter(sdata, keys[name].shapes) for name, sdata in slides.items()}
    if None in sides.values() or len(set(sides.values())) > 1:
        raise ValueError(
            f"The slides do not agree on the size of a spot in µm: {sides}. Pass the side of the tiles that all shall "
            "be read with as `tile_um=`."
        )
    return float(next(iter(sides.values())))  # type: ignore[arg-type]


def _neighbors(
    slides: Mapping[str, SpatialData],
    keys: Mapping[str, _Keys],
    radius_um: float | None,
    box: int | None,
    coordinate_system: str | None,
) -> NeighborRule:
    if radius_um is not None:
        return NeighborRule(reach=_check.positive(radius_um, "radius_um"))
    if box is not None:
        return NeighborRule(kind="box", reach=box, cap=(2 * box + 1) ** 2 - 1)
    pitches = []
    for name, sdata in slides.items():
        placement = _coords.place(sdata, keys[name].image, keys[name].shapes, coordinate_system)
        if len(placement.centers) < 2:
            raise ValueError(f"Slide {name!r} has a single spot, so `radius_um=` has to say who its neighbours are.")
        pitches.append(_coords.pitch_px(placement.centers) * placement.mpp)
    return NeighborRule(reach=float(np.round(RINGS * np.median(pitches))))
