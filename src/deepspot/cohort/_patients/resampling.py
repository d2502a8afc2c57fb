"""Random training patients, again and again, and for every fit one to outcomes that were permuted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import numpy as np
import pandas as pd

from deepspot._core.logging import track
from deepspot.errors import InputError, InputTypeError

# Folds of the training patients in which the strength of a penalty is chosen.
FOLDS = 3
# A score of fewer patients says nothing.
FEWEST_TESTED = 10
# Percentiles of an interval of 95 %.
LEVEL = (2.5, 97.5)

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, int], dict[str, float]]


def resample(
    X: np.ndarray, strata: pd.Series, score: Score, *, n_train: int | Sequence[int], repeats: int, seed: int, what: str
) -> pd.DataFrame:
    """Fit and score on random splits, with the outcomes as they are and permuted among all patients of the split.

    `score` takes X (patients, genes), training and test rows, and a seed, and returns the score first, and then what
    else is to be kept. `strata` (patients,) are kept in proportion on both sides, and `what` names them in messages.
    One row for each split: `n_train`, `repeat`, the score, its value for `permuted` outcomes, and what else there is.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    sizes = _check_sizes(n_train, repeats, strata, what)
    rows = []
    splits = [(n, number) for n in sizes for number in range(repeats)]
    for n, number in track(splits, "Resampling patients", total=len(splits)):
        rng = np.random.default_rng([seed, n, number])
        draw, inner = (int(value) for value in rng.integers(2**31 - 1, size=2))
        train, test = next(StratifiedShuffleSplit(1, train_size=n, random_state=draw).split(X, strata))
        # Outcomes stay where they are and profiles are dealt out anew: the split is the same, and stays stratified.
        found, null = score(X, train, test, inner), score(X[rng.permutation(len(X))], train, test, inner)
        name, *more = found
        permuted = {"permuted": null[name]}
        rows.append(
            {"n_train": n, "repeat": number, name: found[name]} | permuted | {other: found[other] for other in more}
        )
    return pd.DataFrame(rows)


def _check_sizes(n_train: int | Sequence[int], repeats: int, strata: pd.Series, what: str) -> list[int]:
    """Numbers of training patients, rising, if there are patients enough for all."""
    sizes = list(n_train) if isinstance(n_train, Sequence) else [n_train]
    for argument, values in (("n_train", sizes), ("repeats", [repeats])):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise InputTypeError(f"`{argument}` must be a whole number, got {type(value).__name__}.")
            if value < 1:
                raise InputError(f"`{argument}` must be at least 1, got {value}.")
    if not sizes:
        raise InputError("`n_train` is empty. The paper's numbers of training patients are (75, 100, 125).")
    numbers = sorted({int(size) for size in sizes})
    n, counts = len(strata), strata.value_counts()
    smallest, largest, rarest = numbers[0], numbers[-1], str(counts.index[-1])
    if n < largest + FEWEST_TESTED:
        raise InputError(
            f"There are {n} patients: too few to train on {largest} and test on {FEWEST_TESTED} or more. Choose "
            "smaller numbers with `n_train=`."
        )
    share = counts.iloc[-1] / n
    if smallest * share < FOLDS or (n - largest) * share < 1:
        raise InputError(
            f"Too few patients of one kind by {what}: the numbers are {counts.to_dict()}. With `n_train` from "
            f"{smallest} to {largest} of {n}, {FOLDS} or more of {rarest!r} must be trained on, and 1 or more "
            "tested. Choose other numbers, or leave that kind out."
        )
    return numbers


@dataclass(frozen=True, eq=False, repr=False)
class Resampled:
    """Scores of random splits of patients; see :class:`Survival` and :class:`Classification`."""

    SCORE: ClassVar[str]
    WORD: ClassVar[str]

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
            f"{self.WORD} ± SE by number of training patients (permuted): {scores}{left_out}"
        )

    def _describe(self) -> str:
        raise NotImplementedError

    def summary(self) -> pd.DataFrame:
        """Mean over the splits, and how far to trust it.

        Returns
        -------
        One row for each number of training patients, `n_train`:

        `n_test`, `repeats`
            Patients tested in a split, and number of splits.
        `undefined`
            How many of these have no score, or none with permuted outcomes, such as the concordance where of no two
            tested patients it is known who died first. All that follows is of the others.
        `mean`, `se`
            Mean score and its standard error, the standard deviation over splits by the root of their number. This is
            what the paper reports. Splits share patients, so that it is **too small**: it falls with every repeat,
            while there are no more patients than before. It says how well the mean over all splits of *these* patients
            is known.
        `se_corrected`
            What Nadeau and Bengio propose, who add to the 1 / repeats of the above the ratio of tested to training
            patients. It says how far the score of *other* patients may be off, and is rather too large where more
            patients are tested than trained on.
        `low`, `high`
            Of 95 % of the splits.
        `permuted`, `permuted_se`, `permuted_low`, `permuted_high`
            The same with permuted outcomes. A mean that is not that of chance says that the fits or scores leak. What
            was done before, such as genes chosen by the outcome of all patients, it cannot see.
        `above`
            Share of the splits whose score is above that of the same split with permuted outcomes.
        """
        rows = {n: self._summarize(n, split) for n, split in self.table.groupby("n_train")}
        found = pd.DataFrame.from_dict(rows, orient="index").astype({"n_test": int, "repeats": int, "undefined": int})
        return found.rename_axis("n_train")

    def _summarize(self, n_train: int, split: pd.DataFrame) -> dict[str, float]:
        n_test = len(self.patients) - n_train
        # A split counts with its control or not at all, so that both means are of the same splits.
        both = split[[self.SCORE, "permuted"]].to_numpy()
        known = both[np.isfinite(both).all(axis=1)]
        found, null = known.T
        row: dict[str, float] = {"n_test": n_test, "repeats": len(both), "undefined": len(both) - len(known)}
        row |= _mean_and_range(found, "mean", "")
        row["se_corrected"] = row["se"] * np.sqrt(1 + len(found) * n_test / n_train)
        above = float((found > null).mean()) if len(found) else np.nan
        return row | _mean_and_range(null, "permuted", "permuted_") | {"above": above}


def _mean_and_range(values: np.ndarray, mean: str, prefix: str) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys([mean, f"{prefix}se", f"{prefix}low", f"{prefix}high"], np.nan)
    low, high = np.percentile(values, LEVEL)
    se = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {mean: values.mean(), f"{prefix}se": se, f"{prefix}low": low, f"{prefix}high": high}


@dataclass(frozen=True, eq=False, repr=False)
class Survival(Resampled):
    """What :func:`deepspot.cohort.survival` found.

    Attributes
    ----------
    table
        One row for each split: `n_train`, `repeat`, `concordance`, its value for `permuted` outcomes, `strength` of
        the penalty (1 is the smallest with which all weights are 0), and how many genes have a weight,
        `genes_chosen`.
    patients
        One row for each patient: `profile` that was taken, `time`, and `died`, as they were understood.
    n_genes, seed, l1_ratio
        Genes that were offered, the seed, and the kind of penalty.

    Examples
    --------
    See :func:`deepspot.cohort.survival`.
    """

    SCORE: ClassVar[str] = "concordance"
    WORD: ClassVar[str] = "concordance"

    l1_ratio: float

    def _describe(self) -> str:
        return (
            f"Survival: {len(self.patients)} patients, {int(self.patients['died'].sum())} died; {self.n_genes:,} genes;"
            f" Cox, elastic net ({self.l1_ratio:g})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Resampled):
    """What :func:`deepspot.cohort.classify` found.

    Attributes
    ----------
    table
        One row for each split: `n_train`, `repeat`, macro `f1`, its value for `permuted` labels, and the inverse
        `strength` of the penalty.
    patients
        One row for each patient: `profile` that was taken, and `label`.
    n_genes, seed
        Genes that were offered, and the seed.

    Examples
    --------
    See :func:`deepspot.cohort.classify`.
    """

    SCORE: ClassVar[str] = "f1"
    WORD: ClassVar[str] = "macro F1"

    def _describe(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in self.patients["label"].value_counts().items())
        return f"Classification: {len(self.patients)} patients ({counts}); {self.n_genes:,} genes; logistic, L2"
