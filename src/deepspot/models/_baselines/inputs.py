"""What every baseline does with its input: check it, and fill what was not measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepspot._core.validate import check_same_length
from deepspot._features.bags import Bags
from deepspot.models._confidence.folds import which_rows
from deepspot.models._network.scaler import Scaler


def rows_to_learn(bags: Bags, targets: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Row numbers to learn from, once bags and targets are known to fit together."""
    check_same_length(bags.spot, targets, "`bags` and `targets`")
    return which_rows(rows, len(bags))


def fill_unknown(targets: np.ndarray) -> np.ndarray:
    """Targets (n, genes) in float32, the mean of the gene where it was not measured, 0 where it never was."""
    return np.where(np.isfinite(targets), targets, Scaler.fit(targets).mean).astype(np.float32)


def not_fitted(model: Any) -> ValueError:
    """The error of a model that is asked to predict too early."""
    return ValueError(f"{type(model).__name__} is not fitted yet. Call `fit` first.")
