from __future__ import annotations

from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot.errors import InputError

from ._style import COLORS, GRAY, GRID, MARKERS, one_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from deepspot.models._cross_validation.result import CrossValidation

DASHES = ("--", ":", "-.")
# Fraction of the distance between two ticks over which the models are spread, so that error bars do not overlap.
SPREAD = 0.6


@checked
def benchmark(cv: CrossValidation, *, statistic: str = "median", ax: Axes | None = None) -> Axes:
    """Plot the mean r over the top n genes against n, for every model.

    Each curve is the median over held-out patients of the mean Pearson r over the top n genes, with the standard error
    from a bootstrap over these patients. Null models are gray and dashed. The legend gives the area under the curve and
    is sorted by it. The title states limits of the result, such as too few patients.

    Parameters
    ----------
    cv
        From :func:`deepspot.models.cross_validate`.
    statistic
        ``"median"`` over patients, as in the paper, or ``"mean"``.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If `statistic` is not one of these.

    References
    ----------
    DeepSpot, section 4.3 and figure 3A.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20, top=(5, 10, 20))
    >>> ax = ds.pl.benchmark(cv)
    """
    if statistic not in ("median", "mean"):
        raise InputError(f'`statistic` must be "median" or "mean", got {statistic!r}.')
    summary = cv.summary()
    note = summary.attrs["note"]
    summary = summary.sort_values(["null", statistic], ascending=[True, False])
    points = _points(cv, statistic)
    numbers = np.asarray(points["n"].unique())
    ax = one_axes(ax, (8.5, 4.8))
    # Numbers of genes are drawn at equal distances: 100 and 5000 are not readable on one scale.
    shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(summary)) if len(summary) > 1 else [0.0]
    styles = _styles(summary["null"].reindex(list(cv.grid)))
    for shift, (model, row) in zip(shifts, summary.iterrows(), strict=True):
        curve = points[points["model"] == model]
        area = round(row[statistic], 2) + 0.0  # no "-0.00"
        x, y, label = np.arange(len(numbers)) + shift, curve["r"].to_numpy(), f"{model} ({area:.2f})"
        style = styles[model] | {"capsize": 1.5, "elinewidth": 0.8}
        _, caps, bars = ax.errorbar(x, y, yerr=curve["se"].to_numpy(), label=label, **style)
        for part in (*caps, *bars):
            part.set_alpha(0.6)
    _label(ax, cv, statistic, numbers, note)
    return ax


def _styles(null: pd.Series) -> dict[str, dict[str, Any]]:
    """Return the line style of every model, by its position in the result, so that all figures agree."""
    styles: dict[str, dict[str, Any]] = {}
    for number, model in enumerate(null.index[null]):
        styles[model] = {"color": GRAY, "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.4, "zorder": 1}
    for number, model in enumerate(null.index[~null]):
        cycle, color = divmod(number, len(COLORS))
        styles[model] = {"color": COLORS[color], "linestyle": ("-", *DASHES)[cycle % 4], "zorder": 3}
        styles[model] |= {"marker": MARKERS[(color + cycle) % len(MARKERS)], "markersize": 5}
    return styles


def _points(cv: CrossValidation, statistic: str) -> pd.DataFrame:
    """Return the statistic over folds and its standard error, for every model and number of genes."""
    import pandas as pd

    from deepspot.models._cross_validation.statistics import N_BOOTSTRAP, draws

    reduce: Callable[..., Any] = np.median if statistic == "median" else np.mean
    rows = []
    for model, curve in cv.curve().groupby("model", sort=False):
        wide = curve.pivot_table(index="fold", columns="n", values="r", sort=False).dropna()
        resampled = wide.to_numpy()[draws(len(wide), N_BOOTSTRAP, cv.seed)]
        values = zip(wide.columns, reduce(wide, axis=0), reduce(resampled, axis=1).std(axis=0, ddof=1), strict=True)
        rows += [{"model": model, "n": n, "r": r, "se": se} for n, r, se in values]
    return pd.DataFrame(rows)


def _label(ax: Axes, cv: CrossValidation, statistic: str, numbers: np.ndarray, note: str) -> None:
    n_folds = cv.scores["fold"].nunique()
    ax.set_xticks(np.arange(len(numbers)), [f"{n:,}" for n in numbers])
    ax.set_xlabel("number of genes, sorted by variability")
    if note:
        ax.set_title(fill(note, 80), loc="left", fontsize="small", color="#555555")
    unit = cv.leave_out
    ax.set_ylabel(f"Pearson r on the held-out {unit}\n({statistic} of {n_folds} {unit}s, ± standard error)")
    ax.axhline(0, color="black", linewidth=0.8, zorder=0)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    title = "model (area under the curve)"
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title=title, alignment="left")
