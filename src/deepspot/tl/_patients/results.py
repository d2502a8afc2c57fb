"""Scores of random splits, beside those with permuted outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

LEVEL = (2.5, 97.5)


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
        parts = [
            f"{n}: {row['mean']:.3f} ± {row['se']:.3f} ({row['permuted']:.3f} ± {row['permuted_se']:.3f})"
            for n, row in self.summary().iterrows()
        ]
        undefined = self.summary()["undefined"].sum()
        told = f"; {undefined} splits without a score are left out" if undefined else ""
        return f"{self._who()}\n{self.WORD} ± SE by number of training patients (permuted): {', '.join(parts)}{told}"

    def _who(self) -> str:
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
        rows = {n: self._summarised(n, split) for n, split in self.table.groupby("n_train")}
        found = pd.DataFrame.from_dict(rows, orient="index").astype({"n_test": int, "repeats": int, "undefined": int})
        return found.rename_axis("n_train")

    def _summarised(self, n_train: int, split: pd.DataFrame) -> dict[str, float]:
        found, null = split[self.SCORE].to_numpy(), split["permuted"].to_numpy()
        n_test = len(self.patients) - n_train
        # A split counts with its control or not at all, so that both means are of the same splits.
        both = np.isfinite(found) & np.isfinite(null)
        row: dict[str, float] = {"n_test": n_test, "repeats": len(found), "undefined": int((~both).sum())}
        found, null = found[both], null[both]
        row |= _of(found, "mean", "")
        row["se_corrected"] = row["se"] * np.sqrt(1 + len(found) * n_test / n_train)
        above = float((found > null).mean()) if len(found) else np.nan
        return row | _of(null, "permuted", "permuted_") | {"above": above}


def _of(values: np.ndarray, mean: str, prefix: str) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys([mean, f"{prefix}se", f"{prefix}low", f"{prefix}high"], np.nan)
    low, high = np.percentile(values, LEVEL)
    se = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return {mean: values.mean(), f"{prefix}se": se, f"{prefix}low": low, f"{prefix}high": high}


@dataclass(frozen=True, eq=False, repr=False)
class Survival(Resampled):
    """What :func:`deepspot.tl.survival` found.

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
    See :func:`deepspot.tl.survival`.
    """

    SCORE: ClassVar[str] = "concordance"
    WORD: ClassVar[str] = "concordance"

    l1_ratio: float

    def _who(self) -> str:
        return (
            f"Survival: {len(self.patients)} patients, {int(self.patients['died'].sum())} died; {self.n_genes:,} genes;"
            f" Cox, elastic net ({self.l1_ratio:g}); {self.table['repeat'].max() + 1} splits"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Resampled):
    """What :func:`deepspot.tl.classify` found.

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
    See :func:`deepspot.tl.classify`.
    """

    SCORE: ClassVar[str] = "f1"
    WORD: ClassVar[str] = "macro F1"

    def _who(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in self.patients["label"].value_counts().items())
        return (
            f"Classification: {len(self.patients)} patients ({counts}); {self.n_genes:,} genes; logistic, L2; "
            f"{self.table['repeat'].max() + 1} splits"
        )
