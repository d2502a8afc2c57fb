"""Assessment of a model: out-of-fold predictions by the network and by tuned ridge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepspot._core.logging import logger
from deepspot._features.bags import Bags
from deepspot.models._baselines import Ridge
from deepspot.models._network.fit import Recipe
from deepspot.models._network.network import infer
from deepspot.models._network.train_members import train_members

from .folds import held_out, make_folds
from .gate import Gate, judge
from .reliability import Reliability, measure_reliability


def assess(
    bags: Bags,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
    applied: bool,
) -> tuple[Gate, Reliability, np.ndarray]:
    """Hold out patients (with one patient slides, with one slide parts of it) in turn, and evaluate the predictions.

    Returns the gate, the reliability of the genes, and the out-of-fold predictions (n, genes), NaN for rows that were
    never held out and for genes without training data in the fold.
    """
    folds, truth = make_folds(rows, slides, patients, position=bags.position), targets.copy()
    network, ridge = (np.full(targets.shape, np.nan, dtype=np.float32) for _ in range(2))
    for number, (train, held) in enumerate(folds.splits, start=1):
        state = None if recipe.checkpoint is None else recipe.checkpoint / f"assess_{number}"
        part = replace(recipe, checkpoint=state, stage=f"check {number}/{len(folds.splits)}, ")
        inner = held_out(train, patients, recipe.seed)
        members, scaler, _, _ = train_members(bags, targets, part, rows=train, validation=inner, slides=slides)
        network[held] = scaler.restore(infer(members, bags, recipe.device, rows=held))
        linear = Ridge(context=recipe.network.context)
        linear.fit(bags, targets, rows=train, slides=slides, patients=patients)
        ridge[held] = linear.predict(bags, rows=held)
        # A gene that only the held-out spots measured cannot be learned, and does not count.
        truth[np.ix_(held, ~np.isfinite(targets[train]).any(axis=0))] = np.nan
    gate = judge(network, ridge, truth, folds=folds, slides=slides, applied=applied)
    used = gate.weight * network + (1 - gate.weight) * ridge
    logger.info("Gate: %s.", gate)
    return gate, measure_reliability(used, truth, folds, slides), np.where(np.isfinite(truth), used, np.nan)
