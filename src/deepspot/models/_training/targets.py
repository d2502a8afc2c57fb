"""Targets of a training set: choice of genes, sequencing depth, normalized expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from deepspot._core.keys import is_label
from deepspot._core.logging import logger
from deepspot._core.validate import check_count
from deepspot._features.bags import Bags
from deepspot._sdata.measured import MeasuredCounts
from deepspot._sdata.tables import MIN_SHARED_GENES
from deepspot._stats.ceiling import ceiling
from deepspot._stats.gamma_poisson import residuals
from deepspot._stats.normalize import LOG1P_10K, Scale, most_variable, normalize
from deepspot._stats.oversample import cluster, equalize
from deepspot.errors import InputError, InputTypeError, MissingKeyError
from deepspot.models._estimator import Estimator

from .slides import MeasuredSlide

Oversample = Literal["leiden", "aestetik"]
ALL_GENES = "all measured genes"
NOT_NORMALIZED = ""
DIGITS = 4
Fitted = TypeVar("Fitted", bound=Estimator)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Input of an estimator.

    Attributes
    ----------
    bags
        All n spots, measured or not.
    targets
        (n, genes) log-expression, NaN where a spot or a gene was not measured.
    rows
        The measured spots, some repeatedly after oversampling.
    slides, patients
        (n,) names.
    depth
        (n,) counts over the genes that all slides share, NaN for spots that were not measured.
    scale
        Scale of the targets.
    """

    bags: Bags
    targets: np.ndarray
    rows: np.ndarray
    slides: np.ndarray
    patients: np.ndarray
    depth: np.ndarray
    scale: Scale = LOG1P_10K

    def fit(self, estimator: Fitted, **options: Any) -> Fitted:
        """Fit an estimator to the set, and return it; it gets `depth` and `exposure` of the spots if it takes them."""
        known = {"rows": self.rows, "slides": self.slides, "patients": self.patients}
        parameters = signature(estimator.fit).parameters
        if "depth" in parameters:
            known["depth"] = self.depth
        if "exposure" in parameters:
            known["exposure"] = self.scale.exposure(self.depth)
        return estimator.fit(self.bags, self.targets, **known, **options)


def training_set(
    slides: Sequence[MeasuredSlide],
    bags: Mapping[str, Bags],
    expression: Sequence[np.ndarray],
    *,
    oversample: Oversample | None = None,
    seed: int = 0,
    scale: Scale = LOG1P_10K,
) -> TrainingSet:
    """Concatenate slides. `bags` has all spots by slide name, `expression` the targets of the measured ones."""
    parts = [bags[slide.name] for slide in slides]
    starts = np.cumsum([0, *map(len, parts)])
    values = np.full((starts[-1], expression[0].shape[1]), np.nan, dtype=np.float32)
    depth, rows = np.full(starts[-1], np.nan), []
    counted = depth_genes(slides)[0]
    for slide, start, known, these in zip(slides, starts, expression, counted, strict=False):
        measured = start + slide.rows
        values[measured], depth[measured] = known, slide.depth(these)
        rows.append(measured if oversample is None else measured[_oversampled(slide, oversample, seed)])
    names, patients = (
        np.repeat([getattr(slide, field) for slide in slides], np.diff(starts)) for field in ("name", "patient")
    )
    return TrainingSet(Bags.concat(parts), values, np.concatenate(rows), names, patients, depth, scale)


def _oversampled(slide: MeasuredSlide, method: Oversample, seed: int) -> np.ndarray:
    try:
        return equalize(cluster(slide.counts, method=method, array=slide.array, seed=seed), seed)
    except ValueError as error:
        error.add_note(f"This happened on slide {slide.name!r}.")
        raise


def choose_genes(slides: Sequence[MeasuredSlide], genes: int | Sequence[str], min_detected: float = 0.0) -> list[str]:
    """Return the genes to predict: those named, or the most variable ones among the genes that all slides share.

    Named genes must be measured on at least one slide. Most variable genes must be detected in at least the share
    `min_detected` of the spots of every slide; of a small panel they are all of these.
    """
    if not 0 <= min_detected <= 1:
        raise InputError(f"`min_detected` must be a share from 0 to 1, got {min_detected}.")
    if isinstance(genes, Integral) and not isinstance(genes, bool):
        check_count(int(genes), "genes")
        common = common_genes(slides)
        counts = [slide.counts[:, slide.genes.get_indexer(common)] for slide in slides]
        seen = np.min([np.asarray((part > 0).mean(axis=0)).ravel() for part in counts], axis=0) >= min_detected
        return _storable(most_variable([part[:, seen] for part in counts], list(common[seen]), int(genes)))
    if isinstance(genes, str):
        raise InputTypeError(f"`genes` must be a number or a list of names, got the text {genes!r}. Write [{genes!r}].")
    if not isinstance(genes, Iterable):
        raise InputTypeError(f"`genes` must be a number or a list of names, got {type(genes).__name__}.")
    wanted = list(dict.fromkeys(genes))
    if not wanted:
        raise InputError("`genes` is empty. Pass a number, or the names of the genes to predict.")
    known = set().union(*(slide.genes for slide in slides))
    missing = [gene for gene in wanted if gene not in known]
    if missing:
        raise MissingKeyError(
            f"{len(missing)} of {len(wanted)} genes are measured on no slide, first {missing[:5]}. The slides have "
            f"genes like {list(slides[0].genes[:3])}: use these identifiers, or `gene_id_key` when reading."
        )
    return _storable(wanted)


def log_fewer(requested: int | Sequence[str], found: int) -> None:
    """Log that there are fewer genes than the requested number of most variable ones."""
    if isinstance(requested, Integral) and found < int(requested):
        logger.info(
            "There are %s genes that can be ranked, fewer than `genes` = %s, so all of them are taken. They are "
            "measured on all slides, and have counts in at least 3 spots (and the share `min_detected`) of each.",
            *(f"{found:,}", f"{int(requested):,}"),
        )


def _storable(genes: list[str]) -> list[str]:
    """Return the genes; raise if a name is empty, too long, or has control characters, which bundles refuse."""
    wrong = [gene for gene in genes if not gene or not is_label(gene)]
    if wrong:
        raise InputError(
            "`genes` has names that are empty, too long, or have line breaks or other control characters, first "
            f"{wrong[0][:40]!r}. Rename them."
        )
    return genes


def common_genes(slides: Sequence[MeasuredCounts]) -> pd.Index:
    """Return the genes that all slides measure, at least half of the smallest panel, in the order of the first."""
    common = slides[0].genes
    for slide in slides[1:]:
        common = common[common.isin(slide.genes)]
    smallest = min(slides, key=lambda slide: len(slide.genes))
    if len(common) < MIN_SHARED_GENES * len(smallest.genes):
        raise InputError(
            f"The slides share {len(common)} genes, under half of {len(smallest.genes)} of slide {smallest.name!r}. "
            "Check that they are of one species and use the same identifiers (`gene_id_key` when reading)."
        )
    return common


def targets(
    slides: Sequence[MeasuredCounts], genes: Sequence[str], scale: Scale = LOG1P_10K
) -> tuple[list[np.ndarray], str]:
    """Return the log-expression (n, genes) of every slide, NaN for unmeasured genes, and how depth was defined.

    Depth is the total count of a spot. If the panels differ it is summed over the genes that all slides share, so that
    expression does not depend on the panel. Its definition is empty on a scale that does not use it.
    """
    genes_of_depth, depth = depth_genes(slides)
    if scale.total is None:
        depth = NOT_NORMALIZED
    elif depth != ALL_GENES:
        logger.info("The slides measured different genes: spots are normalized over %s.", depth)
    return [target(slide, genes, counted, scale) for slide, counted in zip(slides, genes_of_depth, strict=True)], depth


def depth_genes(slides: Sequence[MeasuredCounts]) -> tuple[list[pd.Index], str]:
    """Return for every slide the genes over which depth is summed, and their description for the card."""
    common = common_genes(slides)
    if all(len(slide.genes) == len(common) for slide in slides):
        return [slide.genes for slide in slides], ALL_GENES
    return [common] * len(slides), f"the {len(common):,} genes that all training slides share"


def target(slide: MeasuredCounts, genes: Sequence[str], counted: pd.Index, scale: Scale = LOG1P_10K) -> np.ndarray:
    """Return the log-expression (n, genes) of one slide, with depth summed over the genes `counted`."""
    columns, depth = slide.genes.get_indexer(pd.Index(genes)), slide.depth(counted)
    values = np.full((len(slide.rows), len(columns)), np.nan, dtype=np.float32)
    values[:, columns >= 0] = normalize(slide.counts[:, columns[columns >= 0]], depth, scale).toarray()
    values[depth == 0] = np.nan
    return values


def out_of_fold_residuals(
    slides: Sequence[MeasuredSlide],
    expression: Sequence[np.ndarray],
    out_of_fold: np.ndarray,
    spots: Sequence[int],
    scale: Scale = LOG1P_10K,
) -> dict[str, list[float | None]]:
    """Return `dispersion` and `rate_level` of the genes, see :func:`deepspot._stats.gamma_poisson.residuals`.

    `expression` is the measured log-expression of every slide; `out_of_fold` (all spots, genes) are predictions by fits
    without the spot's patient; `spots` are the numbers of all spots of the slides. None for a gene without an estimate.
    """
    starts, parts = np.cumsum([0, *spots]), []
    for slide, measured, counted, start in zip(slides, expression, depth_genes(slides)[0], starts, strict=False):
        exposure = scale.exposure(slide.depth(counted))
        predicted = np.clip(out_of_fold[start + slide.rows], 0, scale.highest)
        parts.append((np.expm1(measured) * exposure[:, None], exposure, np.expm1(predicted)))
    return {
        name: [round(float(value), DIGITS) if np.isfinite(value) else None for value in values]
        for name, values in zip(("dispersion", "rate_level"), residuals(parts), strict=True)
    }


def slide_ceiling(
    slide: MeasuredCounts, genes: Sequence[str], counted: pd.Index, scale: Scale = LOG1P_10K
) -> np.ndarray:
    """Return the highest r (genes,) that a perfect prediction can have on a slide, with depth summed over `counted`."""
    columns = slide.genes.get_indexer(pd.Index(genes))
    values = np.full(len(columns), np.nan)
    known = columns >= 0
    values[known] = ceiling(
        slide.counts[:, columns[known]],
        slide.depth(counted),
        counted=pd.Index(genes)[known].isin(counted),
        scale=scale,
    )
    return values


def mean_ceiling(slides: Sequence[MeasuredSlide], genes: Sequence[str], scale: Scale = LOG1P_10K) -> list[float | None]:
    """Return the mean of `slide_ceiling` over slides, None if unknown."""
    values = [
        slide_ceiling(slide, genes, counted, scale)
        for slide, counted in zip(slides, depth_genes(slides)[0], strict=True)
    ]
    return [round(float(value), DIGITS) if np.isfinite(value) else None for value in pd.DataFrame(values).mean()]
