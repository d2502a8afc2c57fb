from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot import _check, _choose, _coords, _tables
from deepspot._geometry import Geometry, NeighborRule, TileGeometry
from deepspot._logging import logger

from ._bags_of import bags_of
from ._slides import MeasuredSlide, as_mapping, measure, patients_of
from ._training_set import choose_genes, targets

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

# Reaches the first ring of neighbours, diagonals too, in a hexagonal and in a square array.
RINGS = 1.5
HELD_OUT = 0.2


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
    from deepspot._bags import Bags
    from deepspot.models._card import TrainingSlide
    from deepspot.models._config import look_up
    from deepspot.pp._embed import add_features

    slides = as_mapping(sdatas)
    keys = {slide: _keys_of(slide, sdata, image_key, shapes_key, table_key, tile_um) for slide, sdata in slides.items()}
    patients = patients_of({slide: sdata.tables[keys[slide].table] for slide, sdata in slides.items()}, patient_key)
    model = models.DeepSpot(preset=preset, network=network, training=training, seed=seed, device=device)
    ready = encoders.get(encoder)
    geometry = Geometry(
        tile=TileGeometry(tile_um=_tile(slides, keys, tile_um), input_px=ready.card.input_px),
        neighbors=_neighbors(slides, keys, radius_um, look_up(preset).array_box, coordinate_system),
    )
    # Everything is checked before the hours of embedding begin.
    measured = [
        measure(slide, sdata, keys[slide].shapes, keys[slide].table, patient=patients[slide], layer=layer)
        for slide, sdata in slides.items()
    ]
    chosen = choose_genes(measured, genes, min_detected)
    expression, depth = targets(measured, chosen)

    features = {
        slide: add_features(
            sdata, ready, geometry.tile, image_key=keys[slide].image, shapes_key=keys[slide].shapes,
            subspots="subspots" in model.network.context, coordinate_system=coordinate_system, device=device,
            batch_size=batch_size,
        )
        for slide, sdata in slides.items()
    }  # fmt: skip
    bags = [bags_of(sdata.tables[features[slide]], geometry.neighbors) for slide, sdata in slides.items()]
    values, rows, owner = _stack([len(bag) for bag in bags], measured, expression)
    model.fit(
        Bags.concat(bags), values, genes=chosen, rows=rows, validation=_held_out(rows, owner, model.seed),
        slides=np.repeat(np.arange(len(bags)), [len(bag) for bag in bags]),
        checkpoint_dir=checkpoint_dir, trainer_kwargs=trainer_kwargs,
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
        return _check.positive(tile_um, "tile_um")
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
        pitches.append(_coords.pitch_px(placement.centers) * placement.mpp)
    return NeighborRule(reach=float(np.round(RINGS * np.median(pitches))))


def _stack(
    sizes: Sequence[int], measured: Sequence[MeasuredSlide], expression: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets of all spots (NaN where not measured), the rows that are measured, and the patient of each of these."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    values = np.full((starts[-1], expression[0].shape[1]), np.nan, dtype=np.float32)
    rows, owner = [], []
    for start, slide, known in zip(starts, measured, expression, strict=False):
        rows.append(start + slide.rows)
        values[rows[-1]] = known
        owner += [slide.patient] * len(slide.rows)
    return values, np.concatenate(rows), np.array(owner)


def _held_out(rows: np.ndarray, owner: np.ndarray, seed: int) -> np.ndarray | None:
    patients = np.unique(owner)
    if len(patients) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(patients)[: max(1, round(HELD_OUT * len(patients)))]
    return rows[np.isin(owner, drawn)]
