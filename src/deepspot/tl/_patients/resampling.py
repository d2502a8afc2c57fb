"""Random training patients, again and again, and beside every fit one to outcomes that were permuted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
import pandas as pd

from deepspot._core.logging import track

FOLDS = 3
"""Folds of the training patients in which the strength of a penalty is chosen."""

FEWEST_TESTED = 10
"""A score of fewer patients says nothing."""

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, int], dict[str, float]]


def check_sizes(n_train: int | Sequence[int], repeats: int, strata: pd.Series, what: str) -> tuple[int, ...]:
    """Numbers of training patients, rising, if there are patients enough for all.

    Parameters
    ----------
    n_train, repeats
        As given by the user.
    strata
        (patients,) what is kept in proportion.
    what
        Name of it, for messages.
    """
    sizes = list(n_train) if isinstance(n_train, Sequence) else [n_train]
    for argument, values in (("n_train", sizes), ("repeats", [repeats])):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError(f"`{argument}` must be a whole number, got {type(value).__name__}.")
            if value < 1:
                raise ValueError(f"`{argument}` must be at least 1, got {value}.")
    if not sizes:
        raise ValueError("`n_train` is empty. The paper's numbers of training patients are (75, 100, 125).")
    numbers = tuple(sorted({int(size) for size in sizes}))
    n, counts = len(strata), strata.value_counts()
    smallest, rarest = numbers[0], str(counts.index[-1])
    if n < numbers[-1] + FEWEST_TESTED:
        raise ValueError(
            f"There are {n} patients: too few to train on {numbers[-1]} and test on {FEWEST_TESTED} or more. Choose "
            "smaller numbers with `n_train=`."
        )
    share = counts.iloc[-1] / n
    if smallest * share < FOLDS or (n - numbers[-1]) * share < 1:
        raise ValueError(
            f"Too few patients of one kind by {what}: the numbers are {counts.to_dict()}. With `n_train` from "
            f"{smallest} to {numbers[-1]} of {n}, {FOLDS} or more of {rarest!r} must be trained on, and 1 or more "
            "tested. Choose other numbers, or leave that kind out."
        )
    return numbers


def resample(
    X: np.ndarray, strata: np.ndarray, score: Score, *, n_train: Sequence[int], repeats: int, seed: int, name: str
) -> pd.DataFrame:
    """Fit and score on random splits, with the outcomes as they are and permuted among all patients of the split.

    Parameters
    ----------
    X
        (patients, genes).
    strata
        (patients,) what is kept in proportion on both sides.
    score
        Takes X, training and test rows, and a seed; returns a value under `name`, and what else is to be kept.
    n_train, repeats, seed
        Numbers of training patients, and how many splits of each.
    name
        Of the score.

    Returns
    -------
    One row for each split: `n_train`, `repeat`, the score, its value for `permuted` outcomes, and what else there is.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    rows: list[dict[str, float]] = []
    for n in track([n for n in n_train for _ in range(repeats)], "Resampling patients", total=len(n_train) * repeats):
        number = len(rows) % repeats
        rng = np.random.default_rng([seed, n, number])
        draw, inner = (int(value) for value in rng.integers(2**31 - 1, size=2))
        train, test = next(StratifiedShuffleSplit(1, train_size=n, random_state=draw).split(X, strata))
        # Outcomes stay where they are and profiles are dealt out anew: the split is the same, and stays stratified.
        found, null = score(X, train, test, inner), score(X[rng.permutation(len(X))], train, test, inner)
        rows.append({"n_train": n, "repeat": number, name: found.pop(name), "permuted": null[name], **found})
    return pd.DataFrame(rows)
