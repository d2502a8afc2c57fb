from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import checked, key_in
from deepspot._core.logging import count_of, logger
from deepspot._core.validate import check_seed
from deepspot._stats.oversample import require
from deepspot.errors import InputError

from .config import CardText, SlideKeys, TileConfig, as_config
from .copies import check_copies
from .targets import Oversample, choose_genes, log_fewer, mean_ceiling, out_of_fold_residuals, targets, training_set

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder
    from deepspot.models._cells.base import CellModel
    from deepspot.models._deepspot import DeepSpot


@checked
def train(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    patient_key: str | Mapping[str, str] | pd.Series | None = None,
    genes: int | Sequence[str] = 5000,
    min_detected: float = 0.0,
    encoder: str | Encoder | None = None,
    keys: SlideKeys | Mapping[str, Any] | None = None,
    tiles: TileConfig | Mapping[str, Any] | None = None,
    oversample: Oversample | None = None,
    preset: str = "default",
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    card: Mapping[str, str] | None = None,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
) -> DeepSpot | CellModel:
    """Train a model on slides with measured genes.

    Raw counts are normalized to log1p of counts per 10,000 (of the genes that all slides share, if the panels differ),
    or to another scale, `normalize` of `keys`, and every gene is standardized. With several patients a fifth of them,
    at least one, is held out to choose the number of epochs; the model is then fitted to all patients. With one patient
    the number of epochs is fixed, because longer training on one patient lowers the accuracy on the next one.

    Parameters
    ----------
    slides
        One slide, a list, or a mapping from names to slides.
    patient_key
        Column of the tables' `obs` with the patient, or a mapping or Series from slide names to patients. Required with
        several slides.
    genes
        Names of the genes to predict, or the number of most variable genes to choose (Seurat v3, batch by slide). If
        there are fewer, as on a panel of Xenium, all are taken, with a log line.
    min_detected
        Minimum share of the spots of every slide in which a gene is detected, for a gene to be chosen as most variable.
        Without a minimum, the most variable genes of shallow data are mostly noise.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder; by default the embedded one.
    keys
        Elements of the slides to use: a :class:`SlideKeys`, or a mapping of its fields such as
        ``{"table_key": "counts"}``. Only needed if a slide has several candidates, or for another scale of expression:
        ``{"normalize": "log1p_counts"}``.
    tiles
        Tiles and neighbors: a :class:`TileConfig`, or a mapping of its fields such as ``{"radius_um": 300}``. The
        presets ``"paper"`` and ``"published"`` take neighbors from the spot array (`array_box` of 1), unless
        `array_box` or `radius_um` is given.
    oversample
        Repeat the spots of small clusters until all clusters of a slide have the size of the largest (section 4.1.1).
        ``"leiden"`` clusters expression, ``"aestetik"`` expression and position; both need optional packages.
    preset
        ``"default"``, ``"paper"`` or ``"published"``; see :class:`deepspot.models.DeepSpot`. Models of cells:
        ``"cell_sum"`` (:class:`CellSum`) and ``"deepspot2cell"`` (:class:`DeepSpot2Cell`) learn from spots and see
        their nuclei as cells, see :func:`deepspot.pp.nuclei`; ``"deepcell"`` (:class:`DeepCell`) learns from measured
        cells, which are the shapes named by `keys`.
    network, training
        Fields of :class:`NetworkConfig` and :class:`TrainingConfig` that differ from the preset, such as
        ``{"context": ("spot",)}`` or ``{"loss": "poisson"}``; of a model of cells its parameters, such as
        ``{"width": 128}`` and ``{"lr": 0.001}``.
    card
        Text for the model card: `name`, `tissue` and `license`, such as ``{"tissue": "breast cancer"}``.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.
    batch_size
        Number of tiles that the encoder processes at once; by default from the settings.
    trainer_kwargs
        Arguments of Lightning's Trainer, such as ``{"devices": 4, "strategy": "ddp"}``. With
        ``{"default_root_dir": folder}`` checkpoints are kept there, and the same call resumes an interrupted training.

    Returns
    -------
    The fitted model. Feature tables are added to the slides, see :func:`deepspot.pp.embed`; nothing else changes.

    Raises
    ------
    ValueError
        If counts are not raw, a slide has fewer than 3 spots with counts, slides of two patients (or two slides, if all
        are of one patient) are copies by their counts or image, the slides share too few genes, a patient is missing,
        the scale is unknown, a field of a configuration is wrong, or the encoder has no tokens and `tiles` requests
        them.
    KeyError
        If a named gene, column, table or layer does not exist, or `tiles` requests nuclei and a slide has none.

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
    from deepspot._core.compute import choose_device
    from deepspot.models._bundle.card import HASHES, TrainingSlide
    from deepspot.models._cells import CELL_MODELS
    from deepspot.models._deepspot import DeepSpot
    from deepspot.models._network.config import PRESETS, look_up

    from .cells import fit_with_card, make_cell_model, tiles_of_cells
    from .plan import plan_slides

    text, used = as_config(CardText, card, "card"), as_config(SlideKeys, keys, "keys")
    look = as_config(TileConfig, tiles, "tiles")
    key_in(preset, [*PRESETS, *CELL_MODELS], "presets")
    model: DeepSpot | CellModel
    if preset in CELL_MODELS:
        if trainer_kwargs is not None:
            raise InputError(
                f"`trainer_kwargs` are not for preset {preset!r}, which Lightning does not train. Omit them."
            )
        model = make_cell_model(preset, network, training, scale=used.normalize, seed=seed, device=device)
    else:
        model = DeepSpot(preset=preset, network=network, training=training, seed=seed, device=device)
        if model.training.gate == "off":  # every model for use reports its accuracy
            model.training = model.training.model_copy(update={"gate": "record"})
    choose_device(device)
    if oversample is not None:
        require(oversample)
    if look.tiles_px is not None:
        raise InputError("`tiles` must not set `tiles_px` in `ds.models.train`: its models use embeddings, not pixels.")
    if not look.subspots:
        raise InputError(
            "`tiles` must not set `subspots` to False in `ds.models.train`. For a model without sub-spots pass "
            "`network={'context': ('spot', 'neighbors')}`."
        )
    if isinstance(model, DeepSpot):
        uses_subspots = "subspots" in model.network.context
        look = look.model_copy(
            update={
                "array_box": look.array_box or look_up(preset).array_box,
                "subspots": look.subspots if uses_subspots else False,
            }
        )
    else:
        look = tiles_of_cells(model, look)
    plan = plan_slides(slides, patient_key, encoder, used, look)
    patients = [slide.patient for slide in plan.measured]
    check_copies(plan.measured, patients if len(set(patients)) > 1 else [slide.name for slide in plan.measured])
    chosen = choose_genes(plan.measured, genes, min_detected)
    log_fewer(genes, len(chosen))
    expression, depth = targets(plan.measured, chosen, used.scale)

    # All input is checked; the slow steps follow.
    bags = plan.embed(device=device, batch_size=batch_size)
    random = check_seed(seed)
    data = training_set(plan.measured, bags, expression, oversample=oversample, seed=random, scale=used.scale)
    if isinstance(model, DeepSpot):
        out_of_fold = data.fit(model, genes=chosen, trainer_kwargs=trainer_kwargs).out_of_fold
    else:
        out_of_fold = fit_with_card(model, data, chosen)
    reliability = model.card.reliability
    if reliability is not None and out_of_fold is not None:
        spots = [len(bags[slide.name]) for slide in plan.measured]
        residuals = out_of_fold_residuals(plan.measured, expression, out_of_fold, spots, used.scale)
        ceilings = mean_ceiling(plan.measured, chosen, used.scale)
        reliability = reliability.model_copy(update=residuals | {"r_ceiling": ceilings})
    model.card = model.card.model_copy(
        update={
            **text.model_dump(),
            "reliability": reliability,
            "scale": used.scale.text,
            "depth": depth,
            "geometry": plan.geometry,
            "encoder": plan.encoder.card,
            "encoder_fingerprint": plan.encoder.fingerprint,
            "slides": [
                TrainingSlide(
                    slide=s.name,
                    patient=s.patient,
                    spots=len(s.rows),
                    hashes=s.spot_hashes(chosen)[:HASHES].tolist(),
                    image=plan.features[s.name].features.image_hash,
                )
                for s in plan.measured
            ],
        }
    )
    epochs = model.card.epochs
    how = f"for {count_of(epochs, 'epoch')}" if epochs else "ridge only"
    logger.info("Trained %s: %r.", how, model)
    return model
