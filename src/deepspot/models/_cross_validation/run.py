"""Run a cross-validation: every system on every fold, with settings chosen on the inner folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.hashing import digest
from deepspot._core.logging import bar, logger
from deepspot._features.bags import Bags
from deepspot._stats.agreement import agreement_of_genes, agreement_of_values
from deepspot._stats.patterns import compare_patterns
from deepspot.errors import InputError
from deepspot.models._systems import FITS

from .data_options import DataOptions
from .factories import System, describe, plain
from .folds import Fold, FoldData, fold_data
from .measures import BY_GENE
from .records import Arrays, load_or_run
from .statistics import UNDEFINED, area, clip, curve, filled, mean_known, score

if TYPE_CHECKING:
    from tqdm.auto import tqdm

# Packages on whose version the result of a fit depends.
PACKAGES = ("deepspot", "numpy", "scikit-learn", "torch")


@dataclass(frozen=True)
class Runner:
    """Systems to compare, and what all folds share.

    Attributes
    ----------
    systems
        Systems.
    bags
        Bags of all spots of every slide, by name.
    folder
        Folder of finished fits; None keeps none.
    top, seed, device
        As in :func:`deepspot.models.cross_validate`.
    base
        Options of the data that a setting does not change.
    others
        Bags for other options, by their `features`.
    """

    systems: Sequence[System]
    bags: Mapping[str, Bags]
    folder: Path | None
    top: Sequence[int]
    seed: int
    device: str | None = None
    base: DataOptions = field(default_factory=DataOptions)
    others: Mapping[Any, Mapping[str, Bags]] = field(default_factory=dict)

    def run(self, folds: Sequence[tuple[Fold, Sequence[Fold]]]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the scores and the patterns on the outer folds, and the areas on their inner folds."""
        outer, patterns, inner = [], [], []
        tuned = [system for system in self.systems if len(system.grid) > 1]
        choices = sum(len(system.grid) for system in tuned)
        total = sum(choices * len(parts) + len(self.systems) for _, parts in folds)
        with bar("Cross-validation", total=total, unit="fit") as progress:
            for fold, parts in folds:
                areas = self._inner(fold.split.name, parts if tuned else (), tuned, progress)
                inner.append(areas)
                scores, found = self._outer(fold, areas, progress)
                outer.append(scores)
                patterns.append(found)
                logger.info("Fold %r is done: %d genes.", fold.split.name, len(fold.genes))
        return tuple(pd.concat(frames, ignore_index=True) for frames in (outer, patterns, inner))

    def _inner(self, name: str, parts: Sequence[Fold], tuned: Sequence[System], progress: tqdm) -> pd.DataFrame:
        rows: list[tuple[str, str, str, int, float]] = []
        for part in parts:
            data_of = self._data(part)
            for system in tuned:
                for setting, params in enumerate(system.grid):
                    data = data_of(params)
                    rows.append((system.name, name, data.name, setting, self._area(system, setting, data, name)))
                    progress.update()
        return pd.DataFrame(rows, columns=["model", "fold", "inner_fold", "setting", "area"])

    def _data(self, fold: Fold) -> Callable[[Mapping[str, Any]], FoldData]:
        """Return a function that returns the arrays of a fold for a setting; equal ones are made once."""
        made: dict[DataOptions, FoldData] = {}

        def data(setting: Mapping[str, Any]) -> FoldData:
            options = self.base.changed(setting)
            if options not in made:
                bags = self.bags if options.features == self.base.features else self.others[options.features]
                scaled = replace(fold, scale=options.scale)
                made[options] = fold_data(scaled, bags, oversample=options.oversample, seed=self.seed)
            return made[options]

        return data

    def _area(self, system: System, setting: int, data: FoldData, outer: str) -> float:
        def work() -> Arrays:
            pairs = zip(self._predict(system, setting, data), data.test, strict=True)
            r, undefined = zip(*(score(predicted, slide.measured) for predicted, slide in pairs), strict=True)
            return {"r": np.stack(r), "undefined": np.stack(undefined)}

        # Scores are kept instead of their area, so that another `top` needs no new fit.
        scores = self._kept(system, setting, data, "inner", work, {"fold": outer, "inner_fold": data.name})
        top = clip(self.top, len(data.genes))
        by_patient: dict[str, list[np.ndarray]] = {}
        for slide, r, undefined in zip(data.test, scores["r"], scores["undefined"], strict=True):
            by_patient.setdefault(slide.patient, []).append(curve(filled(r, undefined), top))
        return area(top, mean_known([mean_known(curves) for curves in by_patient.values()]))

    def _outer(self, fold: Fold, areas: pd.DataFrame, progress: tqdm) -> tuple[pd.DataFrame, pd.DataFrame]:
        data_of, ceilings = self._data(fold), {}
        frames, patterns = [], []
        for system in self.systems:
            setting = select(areas, system.name, len(system.grid))[0]
            scale, data = self.base.changed(system.grid[setting]).scale, data_of(system.grid[setting])
            if scale not in ceilings:
                ceilings[scale] = [replace(fold, scale=scale).ceiling(slide) for slide in fold.split.test]

            def work(system: System = system, setting: int = setting, data: FoldData = data) -> Arrays:
                predictions = self._predict(system, setting, data)
                rows = {f"rows_{number}": slide.rows for number, slide in enumerate(data.test)}
                return rows | {f"prediction_{number}": values for number, values in enumerate(predictions)}

            about = {"fold": data.name, "slides": [slide.name for slide in data.test], "genes": data.genes}
            kept = self._kept(system, setting, data, "outer", work, about)
            predictions = [kept[f"prediction_{number}"] for number in range(len(data.test))]
            frames.append(_frame(system, data, predictions, ceilings[scale]))
            patterns += _patterns(system, data, predictions)
            progress.update()
        return pd.concat(frames, ignore_index=True), pd.DataFrame(patterns)

    def _kept(
        self,
        system: System,
        setting: int,
        data: FoldData,
        kind: str,
        work: Callable[[], Arrays],
        about: Mapping[str, Any],
    ) -> Arrays:
        if self.folder is None:
            return work()
        params = plain(system.params(setting))
        versions = {name: version(name) for name in PACKAGES}
        key = digest(kind, versions, FITS, describe(system.factory), params, self.seed, data.digest)
        return load_or_run(self.folder / f"{key}.npz", work, {"model": system.name, "params": params, **about})

    def _predict(self, system: System, setting: int, data: FoldData) -> list[np.ndarray]:
        """Return the predicted log-expression of the measured spots of the held-out slides."""
        model = system.make(setting, self.seed, self.device)
        try:
            data.train.fit(model)
            predictions = [np.asarray(model.predict(slide.bags)) for slide in data.test]
        except Exception as error:
            error.add_note(f"This happened to model {system.name!r} with {system.grid[setting]} in fold {data.name!r}.")
            raise
        for slide, values in zip(data.test, predictions, strict=True):
            wanted = (len(slide.bags), len(data.genes))
            if values.shape != wanted:
                raise InputError(
                    f"Model {system.name!r} predicted an array of shape {values.shape} for slide {slide.name!r}, but "
                    f"{wanted} (spots, genes) is needed."
                )
        return [values[slide.rows].astype(np.float32) for slide, values in zip(data.test, predictions, strict=True)]


def _patterns(system: System, data: FoldData, predictions: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Return the number of patterns of a system on the held-out slides of a fold, and the agreement of gene pairs."""
    return [
        {"model": system.name, "fold": data.name, "patient": slide.patient, "slide": slide.name}
        | compare_patterns(predicted, slide.measured)
        | agreement_of_values(predicted, slide.measured)
        for slide, predicted in zip(data.test, predictions, strict=True)
    ]


def _frame(
    system: System, data: FoldData, predictions: Sequence[np.ndarray], ceilings: Sequence[np.ndarray]
) -> pd.DataFrame:
    """Return the scores of a system on the held-out slides of a fold, one row for each slide and gene."""
    pooled = score(np.concatenate(predictions), np.concatenate([slide.measured for slide in data.test]))[0]
    frames = []
    for slide, predicted, ceiling in zip(data.test, predictions, ceilings, strict=True):
        r, undefined = score(predicted, slide.measured)
        position = None if slide.bags.position is None else slide.bags.position[slide.rows]
        measures = agreement_of_genes(predicted, slide.measured, position)
        frame = {
            "model": system.name,
            "null": system.null,
            "fold": data.name,
            "patient": slide.patient,
            "slide": slide.name,
            "gene": data.genes,
            "rank": np.arange(1, len(data.genes) + 1),
            "r": r,
            "r_pooled": pooled,
            "r_beyond_axis": measures["pearson_beyond_axis"].to_numpy(),
            "r_ceiling": ceiling,
            "undefined": np.asarray(UNDEFINED)[undefined],
        } | {name: measures[name].to_numpy() for name in BY_GENE}
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def select(areas: pd.DataFrame, model: str, n_settings: int) -> tuple[int, float]:
    """Return the setting with the highest mean area on the inner folds, and that area (NaN if there is no choice).

    Inner folds have the same weight within an outer fold, and outer folds among each other. The first of equals wins.
    """
    if n_settings == 1:
        return 0, float("nan")
    mine = areas[areas["model"] == model]
    by_fold = mine.groupby(["setting", "fold"], observed=True)["area"].mean()
    means = by_fold.groupby("setting", observed=True).mean().reindex(range(n_settings)).to_numpy()
    if not np.isfinite(means).any():
        return 0, float("nan")
    best = int(np.nanargmax(means))
    return best, float(means[best])
