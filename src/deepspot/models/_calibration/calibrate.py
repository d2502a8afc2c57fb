from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_seed
from deepspot._features.bags import Bags
from deepspot._features.feature_table import FeaturePlan, bags_of
from deepspot._sdata.view import NO_IMAGE, SlideView
from deepspot._stats.metrics import rmse
from deepspot._stats.normalize import LOG1P_10K, Scale, known_scale
from deepspot.errors import InputError
from deepspot.models._bundle.card import HASHES, TrainingSlide
from deepspot.models._bundled import BundledModel
from deepspot.models._confidence.folds import Folds, make_folds
from deepspot.models._confidence.ood import OODDetector
from deepspot.models._confidence.reliability import Reliability, measure_reliability, r_of_units, summarize
from deepspot.models._fitted import FittedModel
from deepspot.models._model import Model
from deepspot.models._registry import as_model
from deepspot.models._training.config import SlideKeys, as_config
from deepspot.models._training.copies import check_copies, thumbnail
from deepspot.models._training.slides import MeasuredSlide, as_mapping, measure, patients_of
from deepspot.models._training.targets import TrainingSet, mean_ceiling, out_of_fold_residuals, targets, training_set

from .correction import CorrectedModel, Correction, Kind, fold_in

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder


@checked
def calibrate(
    model: Model | str | Path,
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    patient_key: str | Mapping[str, str] | pd.Series | None = None,
    correction: Kind | None = None,
    encoder: str | Encoder | None = None,
    keys: SlideKeys | Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> Model:
    """Measure the accuracy of a model on measured slides, and adapt it to them on request.

    For a model of another package (:func:`deepspot.models.adapt`), this fills what its card lacks; for a model of
    :func:`deepspot.models.train`, it replaces what was measured in training by what holds for tissue like these slides.

    - Expected r of every gene, its interval, intervals of predictions, and dispersions for :func:`deepspot.tl.correct`.
    - The reference of the out-of-distribution score: spots unlike these slides are flagged.
    - With `correction`, a correction on the scale of the model; if that is unknown, on `normalize` of `keys`, by
      default log1p of counts per 10,000. Everything is then measured out of fold: by patient; with one patient by
      slide; with one slide by strips across it. The correction of a fold does not see the held-out spots.

    With one slide, r is that on other parts of the same slide. It is too high for another slide, which a warning says.

    Parameters
    ----------
    model
        The model, or anything that :func:`deepspot.models.load` takes. It is not changed.
    slides
        One slide, a list, or a mapping from names to slides, with measured genes. The model must not have learned from
        them.
    patient_key
        Column of the tables' `obs` with the patient, or a mapping or Series from slide names to patients. Required with
        several slides.
    correction
        ``None``: predictions stay as they are.

        ``"affine"``
            A slope and an intercept per gene, by least squares within slides. It corrects level and spread, and the
            scale of a model of another package. r does not change, because slopes are positive.
        ``"ridge"``
            The same, and ridge regression on the embeddings of the model to predict what that leaves over. Its strength
            is that with the highest r of the corrected prediction on inner folds; if none is better than the affine
            correction, only that is made. It can lower r on tissue unlike these slides.
    encoder
        Encoder of the model, if the registry does not have it under the name in the card.
    keys
        Elements of the slides to use: a :class:`SlideKeys`, or a mapping of its fields such as
        ``{"table_key": "counts"}``. Only needed if a slide has several candidates.
    seed
        Random seed of the reference spots. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.
    batch_size
        Number of tiles that the encoder processes at once; by default from the settings.

    Returns
    -------
    A new model, whose card has the reliability, and the slides as `calibrated_on`. Its attribute `calibration` is a
    data frame by gene: out-of-fold `r` (mean within slides) and `rmse`, with a correction also `r_before` and
    `rmse_before`.
    A trained model can be saved like before, except with ridge. If predictions were on another scale, a correction
    leaves out the genes that the slides do not measure. Feature tables are added to the slides.

    Raises
    ------
    ValueError
        If the model learned from a slide, the slides measure none of its genes, counts are not raw, patients are
        missing, or slides of two patients are copies.
    KeyError
        If a column, table or layer does not exist.

    References
    ----------
    Dunn, Wasserman and Ramdas, JASA 2022, for intervals; Sun et al., ICML 2022, for the out-of-distribution score.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=6, n_cols=7)
    >>> options = {"genes": 10, "network": {"members": 1}, "training": {"epochs": 5}}
    >>> model = ds.models.train(slides["P1_S1"], **options)
    >>> own = ds.models.calibrate(model, slides["P2_S1"], correction="affine")
    >>> own.calibration.columns.tolist()
    ['r', 'rmse', 'r_before', 'rmse_before']
    """
    ready = as_model(model)
    if correction is not None:
        key_in(correction, get_args(Kind), "corrections")
    seed = check_seed(seed)
    where = as_config(SlideKeys, keys, "keys")
    known = known_scale(ready.card.scale)
    if known is not None and where.scale not in (known, LOG1P_10K):
        raise InputError(f"Model {ready.card.name!r} is on the scale {known.text!r}: leave `normalize` out of `keys`.")
    scale = known or where.scale
    plan = _plan(ready, slides, patient_key, where, encoder)
    expression, depth = targets(plan.measured, ready.card.genes, scale)
    measured = np.isfinite(np.concatenate(expression)).any(axis=0)
    if not measured.any():
        raise InputError(
            f"The slides measure none of the {len(measured):,} genes of model {ready.card.name!r}. Theirs are like "
            f"{list(plan.measured[0].genes[:3])}, those of the model like {ready.card.genes[:3]}: use the same "
            "identifiers (`gene_id_key` when reading)."
        )

    # All input is checked; the slow steps follow.
    bags = plan.embed(device=device, batch_size=batch_size)
    data = training_set(plan.measured, bags, expression, seed=seed, scale=scale)
    predicted = np.concatenate([ready.predict(bags[slide.name], device=device) for slide in plan.measured])
    folds = make_folds(data.rows, data.slides, data.patients, position=data.bags.position)
    fitted, used = None, predicted
    if correction is not None:
        fitted, used = _fit_out_of_fold(correction, ready, data, predicted, folds)
    on_scale = correction is not None or known is not None
    reliability = _reliability(plan.measured, used, data, folds, expression, bags, ready, scale, on_scale=on_scale)
    ood = OODDetector.fit(data.bags.spot, data.rows, data.slides, data.patients, position=data.bags.position, seed=seed)
    made = _assemble(ready, fitted, plan, reliability, ood, scale, depth, measured)
    made.calibration = _judge(predicted, used, data, folds, made.card.genes, ready.card, corrected=fitted is not None)
    _report(made, folds, corrected=fitted is not None)
    return made


@dataclass(frozen=True, eq=False)
class _Plan:
    """Checked slides: their counts and the features to embed."""

    model: Model
    measured: list[MeasuredSlide]
    features: dict[str, FeaturePlan]

    def embed(self, **compute: Any) -> dict[str, Bags]:
        """Add missing feature tables, and return the bags of all spots by slide name."""
        bags = {}
        for name, plan in self.features.items():
            view, key = plan.features.view, plan.add(**compute)
            bags[name] = bags_of(view.sdata, key, view.shapes_key, self.model.geometry.neighbors)
        return bags

    def cards(self) -> list[TrainingSlide]:
        """Return the slides for the card of a model."""
        return [
            TrainingSlide(
                slide=slide.name,
                patient=slide.patient,
                spots=len(slide.rows),
                hashes=slide.spot_hashes(self.model.card.genes)[:HASHES].tolist(),
                image=self.features[slide.name].features.image_hash,
            )
            for slide in self.measured
        ]


def _plan(
    model: Model,
    slides: Any,
    patient_key: str | Mapping[str, str] | pd.Series | None,
    keys: SlideKeys,
    encoder: str | Encoder | None,
) -> _Plan:
    """Check slides, patients, counts and features. Changes nothing."""
    if keys.features_key is not None:
        raise InputError("Leave `features_key` out of `keys`: the features of the encoder of the model are used.")
    named = as_mapping(slides)
    views = {
        name: SlideView.select(
            sdata,
            keys.image_key,
            keys.shapes_key,
            coordinate_system=keys.coordinate_system,
            tile_um=model.geometry.tile.tile_um,
            needs_image=False,
        )
        for name, sdata in named.items()
    }
    tables = {name: view.measured_key(keys.table_key) for name, view in views.items()}
    patients = patients_of({name: named[name].tables[table] for name, table in tables.items()}, patient_key)
    measured = []
    for name, view in views.items():
        slide = measure(name, view.sdata, view.shapes_key, tables[name], patient=patients[name], layer=keys.layer)
        if len(views) > 1 and view.image_key != NO_IMAGE:
            slide = MeasuredSlide(**vars(slide) | {"thumbnail": thumbnail(view)})
        measured.append(slide)
    units = [slide.patient for slide in measured]
    check_copies(measured, units if len(set(units)) > 1 else [slide.name for slide in measured])
    plan = _Plan(model, measured, {name: model.features_of(view, encoder).plan() for name, view in views.items()})
    _check_unseen(plan)
    return plan


def _check_unseen(plan: _Plan) -> None:
    """Raise if the model learned from a slide, by the counts of spots or the image."""
    card, seen = plan.model.card, []
    known = [value for slide in card.slides for value in slide.hashes]
    for slide in plan.measured:
        counts = np.isin(slide.spot_hashes(card.genes), known).sum() > 1
        image = plan.features[slide.name].features.image_hash
        if counts or card.learned_from(image) == "yes":
            seen.append(slide.name)
    if seen:
        raise InputError(
            f"Model {card.name!r} learned from slides {seen}, so its r on them is higher than on others. Calibrate it "
            "on other slides."
        )
    if not known:
        logger.info("Whether the model learned from these slides is unknown. If it did, the measured r is too high.")


def _fit_out_of_fold(
    kind: Kind, model: Model, data: TrainingSet, predicted: np.ndarray, folds: Folds
) -> tuple[Correction, np.ndarray]:
    """Return the correction of all spots, and predictions (n, genes) with the corrections of the folds."""
    groups: dict[str, Any] = {"context": model.context, "slides": data.slides, "patients": data.patients}
    used = np.full_like(predicted, np.nan)
    for train, held in folds.splits:
        fold = Correction.fit(kind, predicted, data.targets, data.bags, rows=train, **groups)
        used[held] = fold.apply(predicted[held], data.bags, held)
    return Correction.fit(kind, predicted, data.targets, data.bags, rows=data.rows, **groups), used


def _reliability(
    slides: list[MeasuredSlide],
    used: np.ndarray,
    data: TrainingSet,
    folds: Folds,
    expression: list[np.ndarray],
    bags: Mapping[str, Bags],
    model: Model,
    scale: Scale,
    *,
    on_scale: bool,
) -> Reliability:
    """Measure r, and on the scale of the measurement also intervals and dispersions."""
    reliability = measure_reliability(used, data.targets, folds, data.slides)
    update: dict[str, Any] = {"r_ceiling": mean_ceiling(slides, model.card.genes, scale)}
    if on_scale:
        spots = [len(bags[slide.name]) for slide in slides]
        update |= out_of_fold_residuals(slides, expression, used, spots, scale)
    else:
        update |= {"half_width": None, "why_no_interval": f"predictions are on the scale {model.card.scale!r}"}
    return reliability.model_copy(update=update)


def _assemble(
    model: Model,
    correction: Correction | None,
    plan: _Plan,
    reliability: Reliability,
    ood: OODDetector,
    scale: Scale,
    depth: str,
    measured: np.ndarray,
) -> Model:
    """Return the calibrated model."""
    card, slides = model.card, plan.cards()
    update: dict[str, Any] = {"reliability": reliability, "calibrated_on": slides}
    if isinstance(model, BundledModel):
        update["sha256"] = ""  # of the file that this model is no longer
    columns = np.arange(len(card.genes))
    if correction is not None:
        update |= {"slides": [*card.slides, *slides]}
        if card.scale != scale.text:
            update |= {"scale": scale.text, "depth": depth}
            columns = np.flatnonzero(measured)
            if len(columns) < len(measured):
                logger.info("%s genes that no slide measures are left out.", f"{len(measured) - len(columns):,}")
                update |= {"genes": [card.genes[column] for column in columns]}
                update["reliability"] = _of_genes(reliability, columns)
                parts = correction.slope[columns], correction.intercept[columns]
                correction = Correction(
                    *parts, None if correction.ridge is None else _narrow(correction.ridge, columns)
                )
    card = card.model_copy(update=update)
    if correction is None or (isinstance(model, FittedModel) and correction.ridge is None):
        made = copy(model) if correction is None else fold_in(model, correction)  # type: ignore[arg-type]
        made.card, made.ood = card, ood
        return made
    return CorrectedModel(model, correction, card, ood, columns)


def _of_genes(reliability: Reliability, columns: np.ndarray) -> Reliability:
    lists = {name: value for name, value in reliability if isinstance(value, list)}
    return reliability.model_copy(update={name: [value[i] for i in columns] for name, value in lists.items()})


def _narrow(ridge: Any, columns: np.ndarray) -> Any:
    """Return ridge of some of its genes."""
    part = copy(ridge)
    part.coef, part.intercept = ridge.coef[:, columns], ridge.intercept[columns]
    part.scaler = type(ridge.scaler)(ridge.scaler.mean[columns], ridge.scaler.std[columns])
    return part


def _judge(
    predicted: np.ndarray,
    used: np.ndarray,
    data: TrainingSet,
    folds: Folds,
    genes: Sequence[str],
    card: Any,
    *,
    corrected: bool,
) -> pd.DataFrame:
    """Return r and error of every gene on held-out spots, with a correction also before it."""
    columns: dict[str, np.ndarray] = {}
    usual = data.scale.text
    for suffix, values, scale in (("", used, usual if corrected else card.scale), ("_before", predicted, card.scale)):
        if suffix and not corrected:
            continue
        columns[f"r{suffix}"] = summarize(r_of_units(values, data.targets, folds, data.slides))[0]
        columns[f"rmse{suffix}"] = rmse(values, data.targets) if scale == usual else np.full(values.shape[1], np.nan)
    return pd.DataFrame(columns, index=pd.Index(card.genes)).loc[list(genes)]


def _report(model: Model, folds: Folds, *, corrected: bool) -> None:
    """Log the result, and warn of a correction that does not help."""
    mean, n = model.calibration.mean(), len(folds.by_unit())
    text = f"r {mean['r']:.3f} on {n} held-out {folds.unit}, over {model.calibration['r'].count():,} genes"
    if not corrected:
        logger.info("Calibrated: %s.", text)
        if mean["r"] <= 0:
            logger.warning(
                "The prediction is not related to the measurement. Check the scale, the genes and the registration of "
                "the slides (`ds.tl.check_alignment`)."
            )
    else:
        error = f", error {mean['rmse']:.3f} (before {mean['rmse_before']:.3f})" if mean["rmse_before"] > 0 else ""
        logger.info("Corrected: %s (before %.3f)%s.", text, mean["r_before"], error)
        if mean["r"] < mean["r_before"] - 1e-4:
            logger.warning(
                "The correction lowers r on held-out %s. Calibrate without it, or on more slides.", folds.unit
            )
    if folds.unit != "patients":
        logger.warning(
            "Calibrated on %s of one patient: expect less on another patient, and there are no intervals.", folds.unit
        )
