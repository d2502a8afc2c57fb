"""Result of a cross-validation: tables, statistics over patients, and files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from gzip import BadGzipFile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.atomic import replace_folder
from deepspot._core.keys import key_in
from deepspot._core.logging import count_of
from deepspot._core.validate import check_path
from deepspot._stats.normalize import LOG1P_10K
from deepspot.errors import InputError

from .factories import plain
from .measures import filled_r, measures
from .run import select
from .statistics import (
    N_BOOTSTRAP,
    UNDEFINED,
    area,
    clip,
    compare,
    curve,
    draws,
    gene_intervals,
    mean_known,
    spread,
)
from .tables import read_table, tidy

if TYPE_CHECKING:
    from deepspot.models._estimator import Estimator

    from .factories import System

FORMAT = 3
TABLE, PATTERNS, INNER = "scores.csv.gz", "patterns.csv.gz", "inner.csv.gz"
REST = "cross_validation.json"
FIELDS = ("grid", "top", "leave_out", "genes", "slides", "seed", "normalize", "splits", "given", "columns")
# Number of folds below which a note is added to the statistics.
ENOUGH = 3


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """Result of :func:`deepspot.models.cross_validate`.

    In all means, r that is undefined because the prediction was constant counts as 0; r that is undefined because the
    measurement was constant is left out. Both are counted.

    Attributes
    ----------
    scores
        One row for each model, held-out slide and gene:

        `model`, `null`
            The model, and whether it is a null model.
        `fold`, `patient`, `slide`
            The held-out patient or slide, the patient, and the slide.
        `gene`, `rank`
            The gene, and its rank among the training set's most variable ones, from 1.
        `r`, `r_pooled`
            Pearson r over the spots of the slide, and over those of all slides of the fold together.
        `r_beyond_axis`
            The same as `r`, after the first principal component of the measured genes of the slide was regressed out of
            the prediction and the measurement. Most genes share this axis.
        `r_ceiling`
            Highest r that a perfect prediction can have with the counts of the slide; NaN if they are too few to tell.
        `undefined`
            ``"no"``, or the side that was constant over the slide: ``"prediction"`` or ``"measurement"``.
        `spearman`, `rmse`, `mae`, `slope`, `ssim`, `ssim_of_mean`, `lee`, `moran_predicted`, `moran_measured`
            See :func:`deepspot.tl.evaluate`, and :func:`deepspot.cohort.evaluation` for their means.
    patterns
        One row for each model and held-out slide: `patterns_predicted`, `patterns_measured`, `gene_agreement`, `r_all`,
        its parts `r_all_means` and `r_all_pattern`, `r_all_of_means` and `slope`, see :func:`deepspot.tl.evaluate`.
    inner
        Area under the curve on the inner folds: `model`, `fold`, `inner_fold`, `setting` (index in `grid`), `area`.
    grid
        Parameter settings of every model.
    top
        Numbers of genes of the curve.
    leave_out
        ``"patient"``, or ``"slide"``, which is no evidence of accuracy on other patients.
    genes, slides
        The genes requested, and the patient of every slide.
    normalize
        Scale of predictions and measurements, see :class:`SlideKeys`.
    splits, given
        Names of the training and of the test slides of every fold; and whether the folds were given.
    columns
        Columns of `obs` with one text for each slide, and that text by slide.
    seed
        Random seed.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
    >>> list(cv.summary().index)
    ['ridge', 'training mean', 'position only', 'shuffled images']
    """

    scores: pd.DataFrame
    inner: pd.DataFrame
    grid: dict[str, list[dict[str, Any]]]
    top: tuple[int, ...]
    leave_out: str = "patient"
    genes: int | list[str] = 5000
    slides: dict[str, str] = field(default_factory=dict)
    systems: Mapping[str, System] = field(default_factory=dict)
    patterns: pd.DataFrame = field(kw_only=True)
    seed: int = field(kw_only=True)
    normalize: str = LOG1P_10K.name
    splits: dict[str, list[list[str]]] = field(default_factory=dict)
    given: bool = False
    columns: dict[str, dict[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        found = self.summary()
        lines = [self._title, "mean area under the curve of r (95 % interval):"]
        width = max(map(len, found.index))
        for model, row in found.sort_values("mean", ascending=False).iterrows():
            lines.append(f"  {model:<{width}}  {row['mean']:6.3f} ({row['mean_low']:.3f} to {row['mean_high']:.3f})")
        return "\n".join([*lines, *filter(None, [found.attrs["note"]])])

    def _repr_html_(self) -> str:
        found = self.summary().sort_values("mean", ascending=False)
        interval = [f"{low:.3f} to {high:.3f}" for low, high in zip(found["mean_low"], found["mean_high"], strict=True)]
        shown = found[["mean"]].round(3).assign(**{"95 % interval": interval, "mean rank": found["mean_rank"].round(1)})
        table = shown.rename(columns={"mean": "mean area under the curve of r"}).to_html(na_rep="null model")
        return f"<p>{escape(self._title)}</p>{table}<p>{escape(found.attrs['note'])}</p>"

    @property
    def _title(self) -> str:
        folds = f"{self.leave_out}s held out in turn" if not self.given else "given folds"
        return (
            f"CrossValidation: {count_of(len(self.grid), 'model')}, {self.scores['fold'].nunique()} {folds}, "
            f"{count_of(len(self.slides), 'slide')} of {count_of(len(set(self.slides.values())), 'patient')}"
        )

    @property
    def best(self) -> pd.DataFrame:
        """Chosen parameters `params` of every `model` and `fold`, and their mean `area` on the inner folds."""
        rows = []
        for model, settings in self.grid.items():
            for fold in self.scores["fold"].unique():
                number, reached = select(self.inner[self.inner["fold"] == fold], model, len(settings))
                rows.append({"model": model, "fold": fold, "params": settings[number], "area": reached})
        return pd.DataFrame(rows)

    def chosen(self, model: str) -> dict[str, Any]:
        """Return the parameters of a model for a refit on all slides: the highest mean inner area over outer folds."""
        settings = self.grid[key_in(model, self.grid, "models")]
        return dict(settings[select(self.inner, model, len(settings))[0]])

    def estimator(self, model: str) -> Estimator:
        """Return an unfitted estimator with the chosen parameters of a model.

        Raises
        ------
        ValueError
            If the result was loaded and the model is a class of your own, which a file does not contain.
        """
        from deepspot.models._systems import NULLS, SYSTEMS

        from .factories import System

        settings = self.chosen(model)
        system = self.systems.get(model)
        if system is None and model not in SYSTEMS | NULLS:
            raise InputError(
                f"Model {model!r} is not of this package, and a saved result does not hold its class. Make it "
                f"yourself with the parameters {settings}."
            )
        factory = (SYSTEMS | NULLS)[model] if system is None else system.factory
        return System(model, factory, (settings,)).make(0, self.seed, None)

    def curve(self) -> pd.DataFrame:
        """Return the mean r over the top n genes: columns `model`, `n`, `fold` and `r`.

        The mean is over genes, then slides, then patients of a fold. Numbers above the number of genes mean all genes.
        """
        numbers = clip(self.top, int(self.scores.groupby("fold", observed=True)["rank"].max().min()))
        names = ["model", "fold", "patient", "slide"]
        parts = []
        for key, part in self.scores.sort_values("rank", kind="stable").groupby(names, observed=True, sort=False):
            values = {"n": numbers, "r": curve(filled_r(part), numbers)}
            parts.append(pd.DataFrame(dict(zip(names, key, strict=True)) | values))
        by_patient = pd.concat(parts).groupby(["model", "n", "fold", "patient"], sort=False)["r"].mean()
        return by_patient.groupby(level=["model", "n", "fold"], sort=False).mean().reset_index()

    def areas(self) -> pd.DataFrame:
        """Return the area under the curve divided by its width, a mean r: models in rows, folds in columns.

        Folds in which no measurement varies are left out.
        """
        curves = self.curve()
        found = {
            key: area(part["n"].to_numpy(), part["r"].to_numpy())
            for key, part in curves.groupby(["model", "fold"], sort=False)
        }
        wide = pd.Series(found).unstack().loc[list(curves["model"].unique()), list(curves["fold"].unique())]
        known = wide.rename_axis(index="model", columns="fold").dropna(axis=1)
        if known.empty:
            raise InputError("No gene varies on any held-out slide, so r is undefined. Check the counts.")
        return known

    def summary(self, *, n_bootstrap: int = N_BOOTSTRAP) -> pd.DataFrame:
        """Summarize the areas under the curve; one row for each model.

        Parameters
        ----------
        n_bootstrap
            Number of bootstrap samples of the held-out patients.

        Returns
        -------
        Columns `null`; `mean` and `median` area over folds, each with ``_se`` (standard error), ``_low`` and ``_high``
        (95 % interval) from the bootstrap; `mean_rank` among the models that are not null, 1 is best;
        `undefined_prediction` and `undefined_measurement`, numbers of slides and genes; `folds`. ``attrs["note"]``
        states limitations of these numbers.
        """
        values = self.areas()
        null = self._null(values.index)
        samples = draws(values.shape[1], n_bootstrap, self.seed)
        ranks = values[~null].rank(ascending=False).mean(axis=1)
        undefined = self.scores.groupby(["model", "undefined"], observed=False).size().unstack(fill_value=0)
        rows = []
        for is_null, (model, known) in zip(null, values.iterrows(), strict=True):
            drawn = known.to_numpy()[samples]
            row: dict[str, Any] = {"null": is_null}
            for name, statistic in (("mean", np.mean), ("median", np.median)):
                row[name] = statistic(known)
                row[f"{name}_se"], row[f"{name}_low"], row[f"{name}_high"] = spread(statistic(drawn, axis=1))
            row["mean_rank"] = ranks.get(model, np.nan)
            row |= {f"undefined_{side}": int(undefined.loc[model, side]) for side in UNDEFINED[1:]}
            rows.append(row | {"folds": values.shape[1]})
        return self._noted(pd.DataFrame(rows, index=values.index))

    def measures(self, *, n_bootstrap: int = N_BOOTSTRAP) -> pd.DataFrame:
        """Return what r alone does not show, one row for each model.

        Parameters
        ----------
        n_bootstrap
            Number of bootstrap samples of the held-out patients.

        Returns
        -------
        Means over genes, then slides, then patients, each with the ends ``_low`` and ``_high`` of its 95 % interval
        from the bootstrap: `r` over all genes; `r_beyond_axis`, the same without the axis that most genes share;
        `r_of_ceiling`, mean r divided by the mean `r_ceiling` of the same genes; `gene_agreement`, the correlation
        between predicted and measured correlations of pairs of genes; and the effective numbers `patterns_predicted`
        and `patterns_measured`. ``attrs["note"]`` states limitations of these numbers.

        References
        ----------
        Spearman, "Correlation calculated from faulty data", British Journal of Psychology 1910, and Brown, in the same
        issue, for the ceiling.
        """
        order = [model for model in self.grid if model in set(self.scores["model"])]
        return self._noted(measures(self.scores, self.patterns, n_bootstrap, self.seed).loc[order])

    def compare(self, baseline: str = "ridge", *, n_bootstrap: int = N_BOOTSTRAP) -> pd.DataFrame:
        """Compare every model with a baseline on the same patients.

        Parameters
        ----------
        baseline
            Name of a model.
        n_bootstrap
            Number of bootstrap samples of the held-out patients.

        Returns
        -------
        One row for each other model that is not null: the mean `difference` in area (above 0: better than the
        baseline), its standard error `se` and 95 % interval `low`, `high` from a paired bootstrap; the number of the
        `folds` that it `won`; the two-sided `p`, at least 2^(1 - folds); `p_adjusted` by Holm over the rows;
        `mean_rank`, 1 is best. ``attrs["note"]`` states limitations of these numbers.
        """
        key_in(baseline, self.grid, "models")
        values = self.areas()
        null = self._null(values.index)
        return self._noted(compare(values, null, baseline, draws(values.shape[1], n_bootstrap, self.seed)))

    def per_gene(self, model: str, *, n_bootstrap: int = N_BOOTSTRAP) -> pd.DataFrame:
        """Return the reliability of every gene: the mean over patients of its r within their slides.

        Parameters
        ----------
        model
            Name of a model.
        n_bootstrap
            Number of bootstrap samples of the patients.

        Returns
        -------
        Genes of any fold in rows; `r`; its 95 % interval `low`, `high` (NaN if r is known in one patient only); and the
        number `n` of patients in which r is known. ``attrs["note"]`` states limitations of these numbers.
        """
        key_in(model, self.grid, "models")
        mine = self.scores[self.scores["model"] == model]
        values = mine.assign(value=filled_r(mine))
        wide = values.groupby(["fold", "patient", "gene"], observed=True, sort=False)["value"].mean().unstack("gene")
        r = wide.to_numpy(dtype=float)
        low, high = gene_intervals(r, n_bootstrap, self.seed)
        genes = pd.Index(np.asarray(wide.columns, dtype=object), name="gene")
        found = {"r": mean_known(list(r)), "low": low, "high": high, "n": np.isfinite(r).sum(axis=0)}
        return self._noted(pd.DataFrame(found, index=genes))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save to a new folder of three tables, ``*.csv.gz``, and ``cross_validation.json``.

        With `overwrite` a saved result is replaced.
        """
        path = check_path(path, "path")
        if path.exists() and not (overwrite and (path / REST).is_file()):
            raise FileExistsError(
                f"{path} already exists. Choose another folder, or pass `overwrite=True`, which replaces a saved "
                "cross-validation and nothing else."
            )
        content = {"format": FORMAT} | {name: plain(getattr(self, name), repr) for name in FIELDS}
        with replace_folder(path, overwrite=overwrite) as new:
            new.mkdir()
            for name, frame in ((TABLE, self.scores), (PATTERNS, self.patterns), (INNER, self.inner)):
                frame.to_csv(new / name, index=False, compression={"method": "gzip", "mtime": 0})
            (new / REST).write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> CrossValidation:
        """Read a result from the folder of `save`."""
        path = check_path(path, "path")
        missing = [name for name in (TABLE, INNER, REST) if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{path} is not a saved cross-validation: {missing} are missing. Pass the folder of `save`."
            )
        try:
            content = json.loads((path / REST).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(
                    f"{path / REST} has another format than {FORMAT}, which this version reads. Run "
                    "`ds.models.cross_validate` again."
                )
            if not (path / PATTERNS).is_file():
                raise FileNotFoundError(f"{path} is incomplete: {PATTERNS} is missing. Get a complete copy.")
            fields = {name: content[name] for name in FIELDS} | {"top": tuple(content["top"])}
            fields["patterns"] = tidy(read_table(path / PATTERNS))
            return cls(tidy(read_table(path / TABLE)), read_table(path / INNER), **fields)
        except InputError:
            raise
        except (ValueError, LookupError, TypeError, EOFError, BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path} is damaged or not a saved cross-validation ({type(error).__name__}: {error}). Run "
                "`ds.models.cross_validate` again; with the same `out=` it reuses finished fits."
            ) from error

    def _null(self, models: pd.Index) -> np.ndarray:
        """Return which models are null models."""
        null = self.scores.drop_duplicates("model").set_index("model")["null"].to_dict()
        return np.array([null[model] for model in models], dtype=bool)

    def _noted(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add the note on limitations to a table."""
        parts, n_folds = [], self.scores["fold"].nunique()
        if self.leave_out == "slide":
            parts.append("Slides were held out, not patients. This does not measure accuracy on other patients.")
        if self.given and all(name == patient for name, patient in self.slides.items()):
            parts.append("Every slide counts as a patient.")
        if self.scores.groupby("patient", observed=True)["fold"].nunique().max() > 1 and self.leave_out == "patient":
            parts.append("Patients are tested in several folds, so the folds are not independent.")
        scales = {setting.get("normalize", self.normalize) for settings in self.grid.values() for setting in settings}
        if len(scales) > 1:
            parts.append(
                f"Targets are on several scales, {sorted(scales)}, those of null models on {self.normalize!r}: r on "
                "different scales is not of the same targets."
            )
        if n_folds < ENOUGH:
            parts.append(
                f"Intervals and p-values over only {n_folds} fold{'s' * (n_folds > 1)} are not reliable. Use at least "
                f"{ENOUGH} {'folds' if self.given else 'patients'}, preferably 6 or more."
            )
        frame.attrs["note"] = " ".join(parts)
        return frame
