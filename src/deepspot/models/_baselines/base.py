"""Base of the baselines, and helpers that several of them use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from deepspot._core.validate import check_same_length, check_seed
from deepspot._features.bags import Bags
from deepspot.models._inputs import Scaler, labels, which_rows

if TYPE_CHECKING:
    import torch


class Baseline:
    """Estimator that checks its input; subclasses fit and predict in `_fit` and `_predict`."""

    _state: ClassVar[str]  # an attribute that `_fit` sets, and that an unfitted estimator lacks
    seed: int | None = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Self:
        """Fit to measured expression.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; NaN where a slide did not measure a gene.
        rows
            Training spots, as numbers that may repeat or as a mask; by default all.
        slides, patients
            (n,) slide and patient of every spot, for estimators that use them.

        Raises
        ------
        ValueError
            If arrays do not match, a parameter is out of range, or the bags lack a required set.
        """
        check_same_length(bags.spot, targets, "`bags` and `targets`")
        n = len(bags)
        self._fit(bags, targets, which_rows(rows, n), labels(slides, n, "slides"), labels(patients, n, "patients"))
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes) in float32."""
        return self._predict(bags)

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        """Fit to `rows`; `slides` and `patients` are labels of all n spots."""
        raise NotImplementedError

    def _predict(self, bags: Bags) -> np.ndarray:
        raise NotImplementedError

    @property
    def _seed(self) -> int:
        return check_seed(self.seed)

    if not TYPE_CHECKING:  # for the type checker, attributes that do not exist stay errors

        def __getattr__(self, name: str) -> Any:
            if name != self._state:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"{type(self).__name__} is not fitted yet. Call `fit` first.")


def fill_unknown(targets: np.ndarray) -> np.ndarray:
    """Return targets (n, genes) in float32, with the mean of the gene for unmeasured values (0 if none is measured)."""
    return np.where(np.isfinite(targets), targets, Scaler.fit(targets).mean).astype(np.float32)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers within the context, and restore their state afterwards."""
    import torch

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
