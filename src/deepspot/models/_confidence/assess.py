"""Assessment of a model: out-of-fold predictions by the network and by tuned ridge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepspot._core.logging import logger
from deepspot._features.bags import Bags
from deepspot._stats.metrics import mean_r
from deepspot.models._baselines.ridge import fit_weighted
from deepspot.models._inputs import Scaler, level_slides, slide_weights
from deepspot.models._low_rank import candidate_ranks, loadings, project
from deepspot.models._network.fit import Recipe
from deepspot.models._network.network import infer
from deepspot.models._network.train_members import train_members

from .folds import Folds, held_out, make_folds
from .gate import Gate, judge
from .reliability import Reliability, measure_reliability

# Held-out rows of a fold, scale of its genes, and the leading directions of its training targets.
Basis = tuple[np.ndarray, Scaler, np.ndarray]


def assess(
    bags: Bags,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
    depth: np.ndarray | None,
    applied: bool,
) -> tuple[Gate, Reliability, np.ndarray]:
    """Hold out patients (with one patient slides, with one slide parts of it) in turn, and evaluate the predictions.

    `depth` (n,) are total counts that weight the slides; None gives equal weights. Returns the gate, the reliability of
    the genes, and the out-of-fold predictions (n, genes), NaN for rows that were never held out and for genes without
    training data in the fold.
    """
    folds, truth = make_folds(rows, slides, patients, position=bags.position), targets.copy()
    network, ridge = (np.full(targets.shape, np.nan, dtype=np.float32) for _ in range(2))
    ranks = candidate_ranks(recipe.training.rank, targets.shape[1])
    bases: list[Basis] = []
    for number, (train, held) in enumerate(folds.splits, start=1):
        state = None if recipe.checkpoint is None else recipe.checkpoint / f"assess_{number}"
        part = replace(recipe, checkpoint=state, stage=f"check {number}/{len(folds.splits)}, ")
        inner = held_out(train, patients, recipe.seed)
        known = level_slides(targets, train, slides) if recipe.training.level_slides else targets
        weights = slide_weights(depth, train, slides)
        members, scaler, _, _ = train_members(
            bags, known, part, rows=train, validation=inner, slides=slides, weights=weights
        )
        network[held] = scaler.restore(infer(members, bags, recipe.device, rows=held))
        groups = {"rows": train, "slides": slides, "patients": patients}
        linear = fit_weighted(bags, known, context=recipe.network.context, **groups, weights=weights)
        ridge[held] = linear.predict(bags, rows=held)
        if any(ranks):
            largest = max(filter(None, ranks))
            bases.append((held, linear.scaler, loadings(known[train], linear.scaler, largest, weights[train])))
        # A gene that only the held-out spots measured cannot be learned, and does not count.
        truth[np.ix_(held, ~np.isfinite(targets[train]).any(axis=0))] = np.nan
    rank = _best_rank(ranks, network, ridge, truth, bases, slides=slides, folds=folds)
    network, ridge = (_projected(predicted, bases, rank) for predicted in (network, ridge))
    gate = judge(network, ridge, truth, folds=folds, slides=slides, applied=applied)
    gate = gate.model_copy(update={"rank": rank})
    used = gate.weight * network + (1 - gate.weight) * ridge
    logger.info("Gate: %s.", gate)
    return gate, measure_reliability(used, truth, folds, slides), np.where(np.isfinite(truth), used, np.nan)


def _best_rank(
    ranks: list[int | None],
    network: np.ndarray,
    ridge: np.ndarray,
    truth: np.ndarray,
    bases: list[Basis],
    *,
    folds: Folds,
    slides: np.ndarray,
) -> int | None:
    """Return the rank with the highest r of the mean of network and ridge: over genes, slides, and held-out units."""
    if len(ranks) == 1:
        return ranks[0]
    blend, r = (network + ridge) / 2, []
    for rank in ranks:
        predicted = _projected(blend, bases, rank)
        r.append(np.mean([mean_r(predicted[rows], truth[rows], slides[rows]) for rows in folds.by_unit()]))
    return ranks[int(np.argmax(r))]


def _projected(predicted: np.ndarray, bases: list[Basis], rank: int | None) -> np.ndarray:
    """Project out-of-fold predictions (n, genes) on the leading directions of their fold."""
    if rank is None:
        return predicted
    result = predicted.copy()
    for held, scaler, directions in bases:
        result[held] = scaler.restore(project(scaler.standardize(predicted[held]), directions[:, :rank]))
    return result
