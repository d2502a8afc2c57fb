"""Prediction in blocks of spots: what is held beside the result does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deepspot._features.bags import Bags
    from deepspot.models import DeepSpot


ROWS = 1024


def predict_in_blocks(model: DeepSpot, bags: Bags, *, device: str | None, rows: int = ROWS) -> np.ndarray:
    """Predict log-expression (n, genes) as the model does, at most `rows` spots and their neighbours at once."""
    expression = np.empty((len(bags), len(model.card.genes)), dtype=np.float32)
    for block, part in blocks(bags, rows):
        expression[block] = model.predict(part, device=device, rows=np.arange(len(block)))
    return expression


def blocks(bags: Bags, rows: int) -> Iterator[tuple[np.ndarray, Bags]]:
    """Rows of a block (b,), and bags whose first b spots are these. The others serve as neighbours only."""
    if len(bags) <= rows:
        yield np.arange(len(bags)), bags
        return
    # Strips across the slide have few neighbours outside, in whatever order the spots come.
    order = np.arange(len(bags)) if bags.position is None else np.argsort(bags.position[:, 1], kind="stable")
    for at in range(0, len(order), rows):
        yield order[at : at + rows], bags.around(order[at : at + rows])


# Spots whose sub-spots are on the scale of counts, in double precision, at once.
CONSERVED = 16


def predict_subspots(model: DeepSpot, bags: Bags, *, device: str | None, rows: int = ROWS) -> np.ndarray:
    """Predict log-expression (n, s, genes) of sub-spots, never negative, that averages to the spot's on counts.

    A sub-spot stands alone where all s stood in training, as if there were s of them that look like it. Spot and
    neighbours stay.

    Parameters
    ----------
    model
        Uses sub-spots.
    bags
        Embeddings of n spots and s sub-spots each.
    device
        Where to compute.
    rows
        Spots at once, beside their neighbours.
    """
    n, s = bags.subspots.shape[:2]  # type: ignore[union-attr]
    expression = np.empty((n, s, len(model.card.genes)), dtype=np.float32)
    for block, part in blocks(bags, rows):
        own = np.arange(len(block))
        whole = model.predict(part, device=device, rows=own)
        for k in range(s):
            alone = replace(part, subspots=part.subspots[:, [k]])  # type: ignore[index]
            expression[block, k] = model.predict(alone, device=device, rows=own)
        for at in range(0, len(block), CONSERVED):
            some = block[at : at + CONSERVED]
            expression[some] = conserve(expression[some], whole[at : at + CONSERVED])
    return expression


def conserve(children: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Scale sub-spots so that they average to their spot.

    Parameters
    ----------
    children
        (n, s, genes) log1p of expression; negative values count as 0.
    parents
        (n, genes) the same of the spots.

    Returns
    -------
    (n, s, genes) in float32, not below 0: on the scale of counts (``expm1``) the mean over s is that of the spot. Where
    all sub-spots are 0 and the spot is not, they are all like the spot.
    """
    mass = np.expm1(np.maximum(children, 0, dtype=np.float64))
    whole = np.expm1(np.maximum(parents, 0, dtype=np.float64))[:, None]
    mean = mass.mean(axis=1, keepdims=True)
    share = np.divide(mass, mean, out=np.ones_like(mass), where=mean > 0)
    return np.log1p(share * whole).astype(np.float32)
