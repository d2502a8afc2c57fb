from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot import _check

from . import _summary
from ._select import select

if TYPE_CHECKING:
    from deepspot.models._estimator import Estimator

    from ._factories import System


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """What :func:`deepspot.tl.cross_validate` found.

    In all means, r that is undefined because the prediction did not vary counts as 0; r that is undefined because the
    measurement did not vary is left out. Both are counted.

    Attributes
    ----------
    table
        One row for each model, held-out slide and gene:

        `model`, `null`
            The system, and whether it is a null model.
        `fold`, `patient`, `slide`
            What was held out, and whose slide it is.
        `gene`, `rank`
            The gene, and its place among the training side's most variable ones, from 1.
        `r`, `r_pooled`
            Pearson r over the spots of the slide, and over those of all slides of the fold together.
        `undefined`
            ``"no"``, or the side that did not vary over the slide: ``"prediction"`` or ``"measurement"``.
    inner
        Area under the curve on the inner folds: `model`, `fold`, `inner_fold`, `setting` (number in `grid`), `area`.
    grid
        Parameter settings of every model.
    top
        Numbers of genes of the curve.
    leave_out
        ``"patient"``, or ``"slide"``, which is no evidence of how a model does on the next patient.
    genes, slides
        What was asked for, and the patient of every slide.
    seed, n_bootstrap
        Of everything random, and how many resamples.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> cv = ds.tl.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
    >>> list(cv.summary().index)
    ['ridge', 'training mean', 'position only', 'shuffled images']
    """

    table: pd.DataFrame
    inner: pd.DataFrame
    grid: dict[str, list[dict[str, Any]]]
    top: tuple[int, ...]
    leave_out: str = "patient"
    genes: int | list[str] = 5000
    slides: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    n_bootstrap: int = 10_000
    systems: Mapping[str, System] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = self.summary()
        lines = [
            f"CrossValidation: {len(self.grid)} models, {self.table['fold'].nunique()} {self.leave_out}s held out in "
            f"turn, {len(self.slides)} slides of {len(set(self.slides.values()))} patients",
            "mean area under the curve of r (95 % interval):",
        ]
        width = max(map(len, found.index))
        for model, row in found.sort_values("mean", ascending=False).iterrows():
            lines.append(f"  {model:<{width}}  {row['mean']:6.3f} ({row['mean_low']:.3f} to {row['mean_high']:.3f})")
        return "\n".join([*lines, *filter(None, [found.attrs["note"]])])

    @property
    def best(self) -> pd.DataFrame:
        """Chosen parameters `params` of every `model` and `fold`, and their mean `area` on the inner folds."""
        rows = []
        for model, settings in self.grid.items():
            for fold in self.table["fold"].unique():
                number, reached = select(self.inner[self.inner["fold"] == fold], model, len(settings))
                rows.append({"model": model, "fold": fold, "params": settings[number], "area": reached})
        return pd.DataFrame(rows)

    def chosen(self, model: str) -> dict[str, Any]:
        """Parameters for a refit on everything: those with the highest mean inner area over the outer folds.

        Parameters
        ----------
        model
            Name of a model.
        """
        settings = self.grid[_check.key_in(model, self.grid, "models")]
        return dict(settings[select(self.inner, model, len(settings))[0]])

    def estimator(self, model: str) -> Estimator:
        """Make a fresh estimator with the chosen parameters, not fitted to anything.

        Parameters
        ----------
        model
            Name of a model.

        Raises
        ------
        ValueError
            If the result was loaded and the model is a class of your own, which a file does not hold.
        """
        from deepspot.models._systems import NULLS, SYSTEMS

        from ._factories import System

        settings = self.chosen(model)
        system = self.systems.get(model)
        if system is None and model not in SYSTEMS | NULLS:
            raise ValueError(
                f"Model {model!r} is none of this package's, and a saved result does not hold its class. Make it "
                f"yourself with the parameters {settings}."
            )
        factory = (SYSTEMS | NULLS)[model] if system is None else system.factory
        return System(model, factory, (settings,)).make(0, self.seed, None)

    def curve(self) -> pd.DataFrame:
        """Mean r over the top n genes: columns `model`, `n`, `fold` and `r`.

        The mean is over genes, then over the slides of a patient. Numbers above the genes in hand become all genes.
        """
        return _summary.curves(self.table, self.top)

    def areas(self) -> pd.DataFrame:
        """Area under the curve by its width, so that it is a mean r: models in rows, what was held out in columns."""
        return _summary.areas(self.table, self.top)

    def summary(self) -> pd.DataFrame:
        """Area under the curve by its width, so that it is a mean r; one row for each model.

        Returns
        -------
        Columns `null`; `mean` and `median` over folds, each with ``_se`` (standard error), ``_low`` and ``_high`` (95 %
        interval), from a bootstrap over the held-out patients; `mean_rank` among the models that are not null, 1 is
        best; `undefined_prediction` and `undefined_measurement`, numbers of slides and genes; `folds`.
        ``attrs["note"]`` says what limits these numbers.
        """
        return self._noted(_summary.summary(self.table, self.top, self.n_bootstrap, self.seed))

    def compare(self, baseline: str = "ridge") -> pd.DataFrame:
        """Compare every model with a baseline on the same patients.

        Parameters
        ----------
        baseline
            Name of a model.

        Returns
        -------
        One row for each other model that is not null, with the mean `difference` in area (above 0: better than the
        baseline), its standard error `se` and 95 % interval `low`, `high`, from a paired bootstrap over the held-out
        patients; on how many of the `folds` it `won`; the two-sided `p`, never below 2^(1 - folds), what so few
        patients can show; `p_adjusted` by Holm over the rows; `mean_rank`, 1 is best. ``attrs["note"]`` says what
        limits these numbers.
        """
        _check.key_in(baseline, self.grid, "models")
        return self._noted(_summary.compare(self.table, self.top, baseline, self.n_bootstrap, self.seed))

    def per_gene(self, model: str) -> pd.DataFrame:
        """Reliability of every gene: the mean over patients of its r within their slides.

        Parameters
        ----------
        model
            Name of a model.

        Returns
        -------
        Genes in rows (those of any fold); `r`, its 95 % interval `low`, `high` from a bootstrap over patients (NaN
        where only one knows the gene), and the number `n` of patients in which it is known. ``attrs["note"]`` as above.
        """
        _check.key_in(model, self.grid, "models")
        return self._noted(_summary.per_gene(self.table, model, self.n_bootstrap, self.seed))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save to a folder of plain files, ``table.csv.gz``, ``inner.csv.gz`` and ``cross_validation.json``.

        Parameters
        ----------
        path
            Folder to make.
        overwrite
            Replace a result that is there.
        """
        from ._files import save

        save(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> CrossValidation:
        """Read a saved result.

        Parameters
        ----------
        path
            Folder that `save` made.
        """
        from ._files import load

        return load(Path(path))

    def _noted(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame.attrs["note"] = _summary.note(self.table["fold"].nunique(), self.leave_out)
        return frame
