"""How true rates lie about what unseen fits predicted, gene by gene: what a correction weighs a prediction by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepspot._expression import TARGET_SUM
from deepspot._posterior import residuals

from ._slides import MeasuredSlide
from ._training_set import depth_genes, depth_of

DIGITS = 4
# Predicted log-expression that no count reaches: an unfinished fit may be off without bounds.
HIGHEST = float(np.log1p(TARGET_SUM))


def out_of_fold_residuals(
    slides: Sequence[MeasuredSlide], expression: Sequence[np.ndarray], out_of_fold: np.ndarray, spots: Sequence[int]
) -> dict[str, list[float | None]]:
    """Dispersion and level of the genes about out-of-fold predictions, see :func:`deepspot._posterior.residuals`.

    Parameters
    ----------
    slides
        Training slides.
    expression
        Measured log-expression (n, genes) of the measured spots of every slide.
    out_of_fold
        (all spots, genes) predictions by fits that had not seen the spot's patient, slide under slide.
    spots
        Number of all spots of every slide.

    Returns
    -------
    `dispersion` and `rate_level`, one number for each gene; None where no slide tells.
    """
    starts, parts = np.cumsum([0, *spots]), []
    for slide, measured, counted, start in zip(slides, expression, depth_genes(slides)[0], starts, strict=False):
        exposure = depth_of(slide, counted) / TARGET_SUM
        predicted = np.clip(out_of_fold[start + slide.rows], 0, HIGHEST)
        parts.append((np.expm1(measured) * exposure[:, None], exposure, np.expm1(predicted)))
    return {
        name: [round(float(value), DIGITS) if np.isfinite(value) else None for value in values]
        for name, values in zip(("dispersion", "rate_level"), residuals(parts), strict=True)
    }
