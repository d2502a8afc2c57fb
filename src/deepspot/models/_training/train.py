from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.logging import logger
from deepspot._core.validate import check_text
from deepspot._features.feature_table import subspots_from
from deepspot._stats.oversample import require
from deepspot.errors import InputError

from .targets import Oversample, choose_genes, out_of_fold_residuals, targets, training_set

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._spatial.geometry import SubspotsFrom
    from deepspot.encoders import Encoder
    from deepspot.models._deepspot import DeepSpot


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
    max_neighbors: int = 8,
    subspots: SubspotsFrom = "tiles",
    oversample: Oversample | None = None,
    preset: str = "default",
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    name: str = "deepspot",
    tissue: str = "",
    license: str = "unknown",
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    checkpoint_dir: str | Path | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
) -> DeepSpot:
    """Train a model on slides with measured genes.

    Raw counts are normalized to log1p of counts per 10,000 (slides with different panels: over the genes that all
    share), and every gene is standardized. With several patients a fifth of them, at least one, is held out to find the
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
        Spots up to this distance in µm are neighbors; by default 1.5 times the distance between spots. The presets
        ``"paper"`` and ``"published"`` take a box of the spot array instead, unless a radius is given.
    max_neighbors
        At most so many neighbors in the radius, the nearest first.
    subspots
        What sub-spots are embedded from, here and in every prediction of the model: ``"tiles"`` of their own, or the
        ``"tokens"`` that the encoder makes of the tile of their spot, which is one pass instead of ten; see
        :func:`deepspot.pp.embed`.
    oversample
        Repeat spots of small clusters until all clusters of a slide are as large as the largest: ``"leiden"`` clusters
        the expression, ``"aestetik"`` expression and place together (``pip install "deepspot[oversample]"``, or
        ``"deepspot[aestetik]"``).
    preset
        ``"default"``, ``"paper"`` or ``"published"``; see :class:`deepspot.models.DeepSpot`.
    network, training
        Fields of the preset to change, such as ``{"context": ("spot",)}`` or ``{"loss": "poisson"}``.
    name, tissue, license
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
        If counts are not raw, the slides share too few genes, patients are not stated, the scale is unknown, or the
        encoder gives no tokens but they are asked for.
    KeyError
        If a named gene, column, table or layer does not exist.

    References
    ----------
    DeepSpot, sections 4.1 and 4.2.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=4, n_cols=5)
    >>> model = ds.models.train(slides, patient_key="patient", genes=20, network={"members": 1})
    >>> len(model.card.genes)
    20
    """
    from deepspot import encoders
    from deepspot._core.compute import choose_device
    from deepspot.models._bundle.card import TrainingSlide
    from deepspot.models._deepspot import DeepSpot
    from deepspot.models._network.config import look_up

    from .plan import Keys, Tiling, plan_slides

    for argument, text in {"name": name, "tissue": tissue, "license": license}.items():
        check_text(text, argument)
    model = DeepSpot(preset=preset, network=network, training=training, seed=seed, device=device)
    if model.training.gate == "off":  # a model that is going to be used has to know how good it is
        model.training = model.training.model_copy(update={"gate": "record"})
    choose_device(device)
    if oversample is not None:
        require(oversample)
    made_from = subspots_from(subspots)
    if made_from is None:
        raise InputError("A model has sub-spots or not by its `context`. Pass `subspots='tiles'` or `'tokens'`.")
    ready = encoders.get(encoder)
    needed = made_from if "subspots" in model.network.context else None
    tiling = Tiling(ready, tile_um, radius_um, look_up(preset).array_box, max_neighbors, needed)
    plan = plan_slides(sdatas, patient_key, Keys(image_key, shapes_key, table_key, layer, coordinate_system), tiling)
    chosen = choose_genes(plan.measured, genes, min_detected)
    expression, depth = targets(plan.measured, chosen)

    # Everything has been checked; now the hours of embedding begin.
    bags = plan.embed(device=device, batch_size=batch_size)
    data = training_set(plan.measured, bags, expression, oversample=oversample, seed=model.seed)
    model.fit(
        data.bags,
        data.targets,
        genes=chosen,
        checkpoint_dir=checkpoint_dir,
        trainer_kwargs=trainer_kwargs,
        **data.options,
    )
    card = model.card
    reliability, unseen = card.reliability, model.out_of_fold
    if reliability is not None and unseen is not None:
        spots = [len(bags[slide.name]) for slide in plan.measured]
        reliability = reliability.model_copy(update=out_of_fold_residuals(plan.measured, expression, unseen, spots))
    model.card = card.model_copy(
        update={
            "reliability": reliability,
            "name": name,
            "tissue": tissue,
            "license": license,
            "depth": depth,
            "geometry": plan.geometry,
            "encoder": ready.card,
            "encoder_fingerprint": ready.fingerprint,
            "slides": [TrainingSlide(slide=s.name, patient=s.patient, spots=len(s.rows)) for s in plan.measured],
        }
    )
    logger.info("Trained for %d epochs: %r.", card.epochs, model)
    return model
