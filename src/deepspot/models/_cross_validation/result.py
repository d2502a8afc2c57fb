"""A result as plain files, that any other program can read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspot._core.keys import key_in
from deepspot.errors import InputError

from . import summary as _summary
from .factories import plain
from .run import select
from .scores import UNDEFINED

if TYPE_CHECKING:
    from deepspot.models._estimator import Estimator

    from .factories import System


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidation:
    """What :func:`deepspot.models.cross_validate` found.

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
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
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
        settings = self.grid[key_in(model, self.grid, "models")]
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

        from .factories import System

        settings = self.chosen(model)
        system = self.systems.get(model)
        if system is None and model not in SYSTEMS | NULLS:
            raise InputError(
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
        key_in(baseline, self.grid, "models")
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
        key_in(model, self.grid, "models")
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
        save(self, Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> CrossValidation:
        """Read a saved result.

        Parameters
        ----------
        path
            Folder that `save` made.
        """
        return load(Path(path))

    def _noted(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame.attrs["note"] = _summary.note(self.table["fold"].nunique(), self.leave_out)
        return frame


FORMAT = 1
TABLE, INNER, REST = "table.csv.gz", "inner.csv.gz", "cross_validation.json"
FIELDS = ("grid", "top", "leave_out", "genes", "slides", "seed", "n_bootstrap")


def save(result: CrossValidation, path: Path, *, overwrite: bool) -> None:
    """Write a folder, all of it or nothing."""
    if path.exists() and not (overwrite and (path / REST).is_file()):
        raise FileExistsError(
            f"{path} is there already. Choose another folder, or pass `overwrite=True`, which replaces a saved "
            "cross-validation and nothing else."
        )
    content = {"format": FORMAT} | {name: plain(getattr(result, name), repr) for name in FIELDS}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        for name, frame in ((TABLE, result.table), (INNER, result.inner)):
            frame.to_csv(new / name, index=False, compression={"method": "gzip", "mtime": 0})
        (new / REST).write_text(json.dumps(content, indent=1))
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def load(path: Path) -> CrossValidation:
    """Read what `save` wrote."""
    missing = [name for name in (TABLE, INNER, REST) if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{path} is no saved cross-validation: it has no {missing}. Pass the folder of `save`.")
    content = json.loads((path / REST).read_text())
    if content.pop("format", None) != FORMAT:
        raise InputError(f"{path / REST} has another format than {FORMAT}, which this version reads. Update deepspot.")
    content["top"] = tuple(content["top"])
    return CrossValidation(tidy(_read(path / TABLE)), _read(path / INNER), **content)


def _read(file: Path) -> pd.DataFrame:
    # As text first: a gene or a patient may be called NA or 007, and every digit of r counts.
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in frame.columns.intersection(["r", "r_pooled", "area"]):
        frame[column] = [float(value or "nan") for value in frame[column]]
    for column in frame.columns.intersection(["rank", "setting"]):
        frame[column] = frame[column].astype("int64")
    if "null" in frame:
        frame["null"] = frame["null"] == "True"
    return frame


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Names as categories, in the order in which they come."""
    for column in ("model", "fold", "patient", "slide", "gene"):
        table[column] = pd.Categorical(table[column], categories=list(dict.fromkeys(table[column])))
    table["undefined"] = pd.Categorical(table["undefined"], categories=list(UNDEFINED))
    return table
