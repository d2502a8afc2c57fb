"""Figures of the scores of random splits of patients, with the control of permuted outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import checked

from ._style import COLORS, GRAY, GRID, by_name, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.cohort._patients.resampling import Classification, Resampled, Survival

OFFSET = 0.16  # of a score and of its control from the middle of their row


@checked
def survival(results: Survival | Mapping[str, Survival], *, ax: Axes | None = None) -> Axes:
    """Plot the concordance of survival predictions.

    For each number of training patients, the point is the mean over splits and the line contains 95 % of the splits.
    Gray is the control with permuted outcomes, which must be near the line at 0.5. The lines are not confidence
    intervals: splits share patients.

    Parameters
    ----------
    results
        Result of :func:`deepspot.cohort.survival`, or a mapping from names to results, such as
        ``{"bulk RNA": …, "FFPE": …}``.
    ax
        Axes; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If `results` are of another type.
    ValueError
        If there is no result.

    References
    ----------
    DeepSpot, figure 6C.

    Examples
    --------
    >>> import deepspot as ds
    >>> keys = {"time_key": "months", "status_key": "dead", "patient_key": "patient"}
    >>> result = ds.cohort.survival(profiles, event=1, **keys)  # doctest: +SKIP
    >>> ax = ds.pl.survival({"FFPE": result})  # doctest: +SKIP
    """
    from deepspot.cohort._patients.resampling import Survival

    return _draw(results, Survival, "outcomes", ax, chance=0.5)


@checked
def classification(results: Classification | Mapping[str, Classification], *, ax: Axes | None = None) -> Axes:
    """Plot the macro F1 of class predictions.

    For each number of training patients, the point is the mean over splits and the line contains 95 % of the splits.
    Gray is the control with permuted labels, the score of chance. The lines are not confidence intervals: splits share
    patients.

    Parameters
    ----------
    results
        Result of :func:`deepspot.cohort.classify`, or a mapping from names to results.
    ax
        Axes; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If `results` are of another type.
    ValueError
        If there is no result.

    References
    ----------
    DeepSpot, figure 6D.

    Examples
    --------
    >>> import deepspot as ds
    >>> result = ds.cohort.classify(profiles, label_key="tumor_type", patient_key="patient")  # doctest: +SKIP
    >>> ax = ds.pl.classification(result)  # doctest: +SKIP
    """
    from deepspot.cohort._patients.resampling import Classification

    return _draw(results, Classification, "labels", ax)


def _draw(results: Any, kind: type[Resampled], what: str, ax: Axes | None, *, chance: float | None = None) -> Axes:
    """Plot results; `what` was permuted, and `chance` is the score of chance if it does not depend on the data."""
    summaries = {name: result.summary() for name, result in by_name(results, kind).items()}
    ax = one_axes(ax, (7.5, 1.1 + 0.36 * sum(len(summary) + 1 for summary in summaries.values())))
    ticks: dict[float, str] = {}
    at = 0
    for number, (name, summary) in enumerate(summaries.items()):
        if name:
            ticks[at] = name
        for n_train, row in summary.iterrows():
            at += 1
            ticks[at] = f"{n_train} training patients, {row['n_test']:.0f} tested"
            labels = (f"true {what}", f"{what} permuted") if at == 1 else (None, None)
            _draw_range(ax, at - OFFSET, row[["mean", "low", "high"]], COLORS[number % len(COLORS)], "o", labels[0])
            _draw_range(ax, at + OFFSET, row[["permuted", "permuted_low", "permuted_high"]], GRAY, "s", labels[1])
        at += 1
    if chance is not None:
        ax.axvline(chance, color="black", linewidth=1, linestyle="--", zorder=1, label=f"chance ({chance:g})")
    ax.set_yticks(list(ticks), list(ticks.values()))
    for tick in ax.get_yticklabels():
        if tick.get_text() in summaries:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(ticks) + 0.6, min(ticks) - 0.5)
    ax.set_xlabel(f"{kind.LABEL} of patients not trained on\n(mean of the splits; lines: 95 % of them)")
    ax.margins(x=0.08)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", borderaxespad=0.2)
    return ax


def _draw_range(ax: Axes, at: float, values: Any, color: str, marker: str, label: str | None) -> None:
    """Plot a mean and the interval with 95 % of the splits."""
    mean, low, high = values
    ax.plot([low, high], [at, at], color=color, linewidth=1.6, alpha=0.55, solid_capstyle="butt", zorder=2)
    ax.plot(mean, at, marker, color=color, markersize=6, zorder=3, linestyle="none", label=label)
    text: dict[str, Any] = {"va": "center", "fontsize": "x-small", "color": color}
    ax.annotate(f"{mean:.2f}", (high, at), (4, 0), textcoords="offset points", **text)
