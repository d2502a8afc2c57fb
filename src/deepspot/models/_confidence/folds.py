"""Which rows are learned from and which are held out: by patient where there are several, never by spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepspot.errors import InputError

N_FOLDS = 5
HELD_OUT = 0.2
Unit = Literal["patients", "slides", "blocks"]


@dataclass(frozen=True, eq=False)
class Folds:
    """Folds of a training set.

    Attributes
    ----------
    unit
        What is held out: patients; with one patient its slides; with one slide strips across it.
    labels
        (n,) which unit every row of the bags belongs to.
    splits
        Rows to learn from (repeated as they were given) and rows held out (each once).
    """

    unit: Unit
    labels: np.ndarray
    splits: list[tuple[np.ndarray, np.ndarray]]

    def by_unit(self) -> list[np.ndarray]:
        """Held-out rows of every unit, in the order of their labels."""
        held = np.concatenate([rows for _, rows in self.splits])
        return [held[self.labels[held] == unit] for unit in np.unique(self.labels[held])]


def make_folds(
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
    n_folds: int = N_FOLDS,
    *,
    position: np.ndarray | None = None,
) -> Folds:
    """Fold the rows of a training set, of which one may be there several times and stays on one side.

    With `n_folds` units or fewer, each is held out once. A single slide is cut across its longer side by the `position`
    (n, 2) of its spots; without it runs of rows are held out, which are neighbors only if the rows are in the order of
    the tissue.
    """
    from sklearn.model_selection import GroupKFold

    once = np.unique(rows)
    unit, labels = _units(once, slides, patients, n_folds, position)
    groups = labels[once]
    n = min(n_folds, len(np.unique(groups)))
    if n < 2:
        raise InputError(f"{len(once)} spots cannot be folded: at least 2 are needed.")
    splits = [(rows[~np.isin(rows, once[test])], once[test]) for _, test in GroupKFold(n).split(once, groups=groups)]
    return Folds(unit, labels, splits)


def _units(
    once: np.ndarray, slides: np.ndarray, patients: np.ndarray, n_folds: int, position: np.ndarray | None
) -> tuple[Unit, np.ndarray]:
    if len(np.unique(patients[once])) > 1:
        return "patients", patients
    if len(np.unique(slides[once])) > 1:
        return "slides", slides
    blocks, order = np.full(len(slides), -1), once
    if position is not None:
        # Tables are often in the order of barcodes, which is random in space.
        here = position[once]
        order = once[np.argsort(here[:, np.ptp(here, axis=0).argmax()], kind="stable")]
    for number, part in enumerate(np.array_split(order, min(n_folds, len(once)))):
        blocks[part] = number
    return "blocks", blocks


def held_out(rows: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray | None:
    """Rows of a fifth of the patients, at least one; None with a single patient."""
    known = np.unique(patients[rows])
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(known)[: max(1, round(HELD_OUT * len(known)))]
    once = np.unique(rows)
    return once[np.isin(patients[once], drawn)]
