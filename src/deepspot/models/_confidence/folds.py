"""Folds of the rows of a training set, by patient, else by slide or by part of a slide; never by spot."""

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
        Held-out unit: patients; with one patient its slides; with one slide strips across it.
    labels
        (n,) unit of every row of the bags.
    splits
        Training rows (repeated as given) and held-out rows (each once).
    """

    unit: Unit
    labels: np.ndarray
    splits: list[tuple[np.ndarray, np.ndarray]]

    def by_unit(self) -> list[np.ndarray]:
        """Return the held-out rows of every unit, in the order of the labels."""
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
    """Return folds of the rows of a training set; a repeated row stays on one side.

    With at most `n_folds` units each is held out once. A single slide is cut across its longer side by the `position`
    (n, 2) of its spots, or without positions into runs of rows.
    """
    from sklearn.model_selection import GroupKFold

    once = np.unique(rows)
    unit, labels = _units(once, slides, patients, n_folds, position)
    groups = labels[once]
    n = min(n_folds, len(np.unique(groups)))
    if n < 2:
        raise InputError(f"{len(once)} spot cannot be split into folds: at least 2 are needed.")
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
        # Rows are often in the order of barcodes, which is random in space.
        known = position[once]
        order = once[np.argsort(known[:, np.ptp(known, axis=0).argmax()], kind="stable")]
    for number, part in enumerate(np.array_split(order, min(n_folds, len(once)))):
        blocks[part] = number
    return "blocks", blocks


def held_out(rows: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the rows of a random fifth of the patients, at least one; None with a single patient."""
    known = np.unique(patients[rows])
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(seed).permutation(known)[: max(1, round(HELD_OUT * len(known)))]
    once = np.unique(rows)
    return once[np.isin(patients[once], drawn)]
