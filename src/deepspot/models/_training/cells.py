"""Training of the models of cells on slides: their options, and a fit with a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from deepspot.errors import InputError, InputTypeError
from deepspot.models._bundle.card import CellModelCard, versions
from deepspot.models._cells import CELL_MODELS
from deepspot.models._cells.base import CellModel
from deepspot.models._cells.config import CellNetworkConfig
from deepspot.models._confidence.folds import make_folds
from deepspot.models._confidence.ood import OODDetector
from deepspot.models._confidence.reliability import Reliability, measure_reliability

from .config import TileConfig
from .targets import TrainingSet

# Parameters of the estimators that are arguments of `train`.
OTHERS = ("scale", "seed", "device")


def make_cell_model(
    preset: str,
    network: dict[str, Any] | None,
    training: dict[str, Any] | None,
    *,
    scale: str,
    seed: int | None,
    device: str | None,
) -> CellModel:
    """Return the estimator of a preset, with some parameters of its `network` and `training` changed."""
    kind = CELL_MODELS[preset]
    names = [each.name for each in fields(kind) if each.init]
    of_network = [name for name in names if name in CellNetworkConfig.model_fields]
    of_training = [name for name in names if name not in (*of_network, *OTHERS)]
    options: dict[str, Any] = {"scale": scale} if "scale" in names else {}
    for argument, known, given in (("network", of_network, network), ("training", of_training, training)):
        if not isinstance(given, Mapping | None):
            raise InputTypeError(f"`{argument}` must be a dictionary of parameters to change, got {given!r}.")
        if unknown := sorted(set(given or {}) - set(known)):
            raise InputError(f"`{argument}` of preset {preset!r} has no parameters {unknown}. Parameters: {known}.")
        options |= given or {}
    model = kind(**options, seed=seed, device=device)
    model.check_parameters()
    return model


def tiles_of_cells(model: CellModel, tiles: TileConfig) -> TileConfig:
    """Return the tiles of a model of cells: those that see cells as parts of spots have nuclei as sub-spots."""
    if "subspots" not in model.context:
        return tiles.model_copy(update={"subspots": False})
    if "subspots" in tiles.model_fields_set and tiles.subspots != "nuclei":
        raise InputError(
            f"Preset {model.system!r} sees the nuclei of a spot as its cells, so `tiles` must not set `subspots` to "
            f"{tiles.subspots!r}. Leave it out."
        )
    return tiles.model_copy(update={"subspots": "nuclei"})


def fit_with_card(model: CellModel, data: TrainingSet, genes: Sequence[str]) -> np.ndarray:
    """Fit a model to a training set, and give it a card with the reliability on held-out units.

    Returns the out-of-fold predictions (n, genes), each by a fit without the patient of the spot (with one patient
    without its slide, with one slide without its part of it), NaN where nothing was held out.
    """
    reliability, out_of_fold = _assess(model, data)
    data.fit(model)
    groups = {"rows": data.rows, "slides": data.slides, "patients": data.patients}
    names = {each.name for each in fields(model) if each.init} - {*CellNetworkConfig.model_fields, *OTHERS}
    model.card = CellModelCard(
        genes=list(genes),
        dim=data.bags.dim,
        network=model.architecture,
        training={name: getattr(model, name) for name in sorted(names)},
        preset=model.system,
        epochs=model.n_epochs,
        seed=model._seed,
        versions=versions(),
        reliability=reliability,
    )
    model.ood = OODDetector.fit(data.bags.spot, **groups, position=data.bags.position, seed=model._seed)
    return out_of_fold


def _assess(model: CellModel, data: TrainingSet) -> tuple[Reliability, np.ndarray]:
    folds = make_folds(data.rows, data.slides, data.patients, position=data.bags.position)
    truth, predicted = data.targets.copy(), np.full(data.targets.shape, np.nan, dtype=np.float32)
    for train, held in folds.splits:
        fitted = replace(model).fit(data.bags, data.targets, rows=train, slides=data.slides, patients=data.patients)
        predicted[held] = fitted.predict(data.bags, rows=held)
        # A gene that only the held-out spots measured cannot be learned, and does not count.
        truth[np.ix_(held, ~np.isfinite(data.targets[train]).any(axis=0))] = np.nan
    reliability = measure_reliability(predicted, truth, folds, data.slides)
    return reliability, np.where(np.isfinite(truth), predicted, np.nan)
