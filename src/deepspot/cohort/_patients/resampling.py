"""Repeated random splits of patients, with a control fit to permuted outcomes for each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from deepspot._core.logging import track
from deepspot._core.validate import MOST, check_count
from deepspot.errors import InputError

FOLDS = 3  # of the training patients, to choose the strength of a penalty
MIN_TESTED = 10  # patients
INTERVAL = (0.025, 0.975)

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, int], dict[str, float]]


def resample(
    X: np.ndarray,
    strata: pd.Series,
    score: Score,
    *,
    n_train: int | Sequence[int],
    n_repeats: int,
    seed: int,
    what: str,
) -> pd.DataFrame:
    """Fit and score on random splits, with true outcomes and with outcomes permuted among all patients.

    `score` takes X (patients, genes), training rows, test rows and a seed; it returns the score first, then other
    columns. Splits are stratified by `strata` (patients,), which messages call `what`. Returns one row per split.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    rows = []
    splits = [(n, number) for n in _check_sizes(n_train, n_repeats, strata, what) for number in range(n_repeats)]
    for n, number in track(splits, "Resampling patients", total=len(splits)):
        rng = np.random.default_rng([seed, n, number])
        draw, inner = (int(value) for value in rng.integers(2**31 - 1, size=2))
        train, test = next(StratifiedShuffleSplit(1, train_size=n, random_state=draw).split(X, strata))
        # The control permutes profiles instead of outcomes, so that the split is the same and stays stratified.
        scored, control = score(X, train, test, inner), score(X[rng.permutation(len(X))], train, test, inner)
        name, *more = scored
        row = {"n_train": n, "repeat": number, name: scored[name], "permuted": control[name]}
        rows.append(row | {other: scored[other] for other in more})
    return pd.DataFrame(rows)


def _check_sizes(n_train: int | Sequence[int], n_repeats: int, strata: pd.Series, what: str) -> list[int]:
    """Return the numbers of training patients in ascending order; raise if there are too few patients."""
    sizes = list(n_train) if isinstance(n_train, Sequence) else [n_train]
    for argument, value in [("n_repeats", n_repeats), *(("n_train", size) for size in sizes)]:
        check_count(value, argument, MOST)
    if not sizes:
        raise InputError("`n_train` is empty. The paper's numbers of training patients are (75, 100, 125).")
    numbers = sorted({int(size) for size in sizes})
    n, counts = len(strata), strata.value_counts()
    smallest, largest = numbers[0], numbers[-1]
    if n < largest + MIN_TESTED:
        raise InputError(
            f"There are {n} patients: too few to train on {largest} and test on {MIN_TESTED} or more. Choose "
            "smaller numbers with `n_train=`."
        )
    share, rarest = counts.iloc[-1] / n, str(counts.index[-1])
    if smallest * share < FOLDS or (n - largest) * share < 1:
        raise InputError(
            f"Too few patients of one kind by {what}: the numbers are {counts.to_dict()}. With `n_train` from "
            f"{smallest} to {largest} of {n}, at least {FOLDS} of {rarest!r} must be in training and 1 in the test. "
            "Choose other numbers, or leave that kind out."
        )
    return numbers


@dataclass(frozen=True, eq=False, repr=False)
class Resampled:
    """Scores of random splits of patients; see :class:`Survival` and :class:`Classification`."""

    SCORE: ClassVar[str]  # column of `table`
    LABEL: ClassVar[str]

    table: pd.DataFrame
    patients: pd.DataFrame
    n_genes: int
    seed: int

    def __repr__(self) -> str:
        summary = self.summary()
        scores = ", ".join(
            f"{n}: {row['mean']:.3f} ± {row['se']:.3f} ({row['permuted']:.3f} ± {row['permuted_se']:.3f})"
            for n, row in summary.iterrows()
        )
        undefined = summary["undefined"].sum()
        left_out = f"; {undefined} splits without a score are left out" if undefined else ""
        return (
            f"{self._describe()}; {self.table['repeat'].max() + 1} splits\n"
            f"{self.LABEL} ± SE by number of training patients (permuted): {scores}{left_out}"
        )

    def _describe(self) -> str:
        raise NotImplementedError

    def summary(self) -> pd.DataFrame:
        """Summarize the scores of the splits.

        Returns
        -------
        One row for each number of training patients, `n_train`:

        `n_test`, `n_repeats`
            Number of test patients in a split, and number of splits.
        `undefined`
            Number of splits without a score, or without one for permuted outcomes. An example is the concordance if
            the test patients contain no comparable pair. These splits are excluded from the other columns.
        `mean`, `se`
            Mean score and its standard error as in the paper: the standard deviation over splits divided by the square
            root of their number. Splits share patients, so this is **too small** as the uncertainty for other patients:
            it decreases with each repeat although the patients stay the same. It is the precision of the mean over all
            splits of *these* patients.
        `low`, `high`
            Interval that contains 95 % of the splits.
        `se_corrected`
            Standard error for *other* patients, after Nadeau and Bengio: the ratio of test to training patients is
            added to 1 / n_repeats. It is rather too large if there are more test than training patients.
        `permuted`, `permuted_se`, `permuted_low`, `permuted_high`
            The same with permuted outcomes. If this mean differs from chance, the fits or scores leak. It cannot reveal
            leaks of earlier steps, such as genes that were selected by the outcome of all patients.
        `above`
            Share of the splits with a higher score than the same split with permuted outcomes.
        """
        rows = {}
        for n_train, split in self.table.groupby("n_train"):
            # A split is excluded with its control, so that both means are over the same splits.
            both = split[[self.SCORE, "permuted"]]
            both = both[np.isfinite(both).all(axis=1)]
            score, control = both[self.SCORE], both["permuted"]
            n_test, n = len(self.patients) - n_train, len(both)
            row = {"n_test": n_test, "n_repeats": len(split), "undefined": len(split) - n}
            row |= _mean_and_interval(score, "mean", "")
            row["se_corrected"] = row["se"] * np.sqrt(1 + n * n_test / n_train)
            row |= _mean_and_interval(control, "permuted", "permuted_")
            rows[n_train] = row | {"above": (score > control).mean()}
        summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_train")
        return summary.astype({"n_test": int, "n_repeats": int, "undefined": int})


def _mean_and_interval(values: pd.Series, mean: str, prefix: str) -> dict[str, float]:
    low, high = values.quantile(INTERVAL)
    return {mean: values.mean(), f"{prefix}se": values.sem(), f"{prefix}low": low, f"{prefix}high": high}


@dataclass(frozen=True, eq=False, repr=False)
class Survival(Resampled):
    """Result of :func:`deepspot.cohort.survival`.

    Attributes
    ----------
    table
        One row for each split: `n_train`, `repeat`, `concordance`, the concordance with `permuted` outcomes, `strength`
        of the penalty (1 is the smallest that sets all weights to 0), and `genes_chosen`, the number of genes with a
        nonzero weight.
    patients
        One row for each patient: `profile`, the name of the profile that was used, `time`, and `event` (bool).
    n_genes, seed, l1_ratio
        Number of genes of the fit, the seed, and the share of the L1 penalty.

    Examples
    --------
    See :func:`deepspot.cohort.survival`.
    """

    SCORE: ClassVar[str] = "concordance"
    LABEL: ClassVar[str] = "concordance"

    l1_ratio: float

    def _describe(self) -> str:
        return (
            f"Survival: {len(self.patients)} patients, {int(self.patients['event'].sum())} events; {self.n_genes:,} "
            f"genes; Cox, elastic net ({self.l1_ratio:g})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Resampled):
    """Result of :func:`deepspot.cohort.classify`.

    Attributes
    ----------
    table
        One row for each split: `n_train`, `repeat`, macro `f1`, the macro F1 with `permuted` labels, and the inverse
        `strength` of the penalty.
    patients
        One row for each patient: `profile`, the name of the profile that was used, and `label`.
    n_genes, seed
        Number of genes of the fit, and the seed.

    Examples
    --------
    See :func:`deepspot.cohort.classify`.
    """

    SCORE: ClassVar[str] = "f1"
    LABEL: ClassVar[str] = "macro F1"

    def _describe(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in self.patients["label"].value_counts().items())
        return f"Classification: {len(self.patients)} patients ({counts}); {self.n_genes:,} genes; logistic, L2"
