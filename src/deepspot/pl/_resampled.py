"""Scores of random splits of patients, one row for each number of training patients, beside permuted outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ._benchmark import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.tl._patients.resampling import Classification, Resampled, Survival


Result = TypeVar("Result")
# Rows are this far apart; a name of a result takes one row.
APART = 0.16


def draw(
    results: Any, kind: type[Resampled], *, score: str, what: str, ax: Axes | None, chance: float | None = None
) -> Axes:
    """Draw one result, or several by their names.

    Parameters
    ----------
    results
        One result, or a mapping from names to them.
    kind
        What they have to be.
    score, what
        What is measured, and what was permuted in the control.
    chance
        What chance reaches whatever the data, if that is known.
    ax
        Axes to draw into; None makes a figure.
    """
    import matplotlib.pyplot as plt

    drawn = named(results, kind)
    summaries = {name: result.summary() for name, result in drawn.items()}
    rows = sum(len(summary) + 1 for summary in summaries.values())
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 1.1 + 0.36 * rows), layout="constrained")
    ticks: dict[float, str] = {}
    at = 0.0
    for number, (name, summary) in enumerate(summaries.items()):
        if name:
            ticks[at] = name
        for n_train, row in summary.iterrows():
            at += 1
            ticks[at] = f"{n_train} training patients, {row['n_test']:.0f} tested"
            _point(
                ax, at - APART, row, "", COLOURS[number % len(COLOURS)], "o", None if at > 1 else f"{what} as they are"
            )
            _point(ax, at + APART, row, "permuted_", GREY, "s", None if at > 1 else f"{what} permuted")
        at += 1
    if chance is not None:
        ax.axvline(chance, color="black", linewidth=1, linestyle="--", zorder=1, label=f"chance ({chance:g})")
    _label(ax, ticks, set(summaries), score)
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", borderaxespad=0.2)
    return ax


def named(results: Any, kind: type[Result]) -> dict[str, Result]:
    """Results by their names, or one without any, if all are of a kind."""
    found = {str(name): result for name, result in results.items()} if isinstance(results, Mapping) else {"": results}
    if not found:
        raise ValueError(f"There is nothing to draw. Pass a {kind.__name__}, or a mapping from names to them.")
    for result in found.values():
        if not isinstance(result, kind):
            raise TypeError(
                f"Only a {kind.__name__} can be drawn here, or a mapping from names to them, not a "
                f"{type(result).__name__}."
            )
    return found


def _point(ax: Axes, at: float, row: Any, prefix: str, colour: str, marker: str, label: str | None) -> None:
    mean, low, high = row["permuted" if prefix else "mean"], row[f"{prefix}low"], row[f"{prefix}high"]
    ax.plot([low, high], [at, at], color=colour, linewidth=1.6, alpha=0.55, solid_capstyle="butt", zorder=2)
    ax.plot(mean, at, marker, color=colour, markersize=6, zorder=3, linestyle="none", label=label)
    ax.annotate(
        f"{mean:.2f}",
        (high, at),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize="x-small",
        color=colour,
    )


def _label(ax: Axes, ticks: Mapping[float, str], names: set[str], score: str) -> None:
    ax.set_yticks(list(ticks), list(ticks.values()))
    for tick in ax.get_yticklabels():
        if tick.get_text() in names:
            tick.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(max(ticks) + 0.6, min(ticks) - 0.5)
    ax.set_xlabel(f"{score} of patients not trained on\n(mean of the splits; lines: 95 % of them)")
    ax.margins(x=0.08)
    ax.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def survival(results: Survival | Mapping[str, Survival], *, ax: Axes | None = None) -> Axes:
    """Draw how well profiles tell who dies first.

    For each number of training patients the mean concordance over the splits and the range of 95 % of them; below it,
    in grey, the same with permuted outcomes, which must lie about the line at 0.5. The range is that of splits of these
    patients. It is no confidence interval: splits share patients.

    Parameters
    ----------
    results
        From :func:`deepspot.tl.survival`, or several by their names, such as ``{"bulk RNA": …, "FFPE": …}``.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If this is no such result.
    ValueError
        If there is none.

    References
    ----------
    DeepSpot, figure 6C.

    Examples
    --------
    >>> import deepspot as ds
    >>> found = ds.tl.survival(profiles, time="months", status="dead", event=1, patient="patient")  # doctest: +SKIP
    >>> ax = ds.pl.survival({"FFPE": found})  # doctest: +SKIP
    """
    from deepspot.tl._patients.resampling import Survival

    return draw(results, Survival, score="concordance", what="outcomes", ax=ax, chance=0.5)


def classification(results: Classification | Mapping[str, Classification], *, ax: Axes | None = None) -> Axes:
    """Draw how well profiles tell classes of patients apart.

    For each number of training patients the mean macro F1 over the splits and the range of 95 % of them; below it, in
    grey, the same with permuted labels, which is what chance reaches here. The range is that of splits of these
    patients. It is no confidence interval: splits share patients.

    Parameters
    ----------
    results
        From :func:`deepspot.tl.classify`, or several by their names.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    TypeError
        If this is no such result.
    ValueError
        If there is none.

    References
    ----------
    DeepSpot, figure 6D.

    Examples
    --------
    >>> import deepspot as ds
    >>> found = ds.tl.classify(profiles, label="tumour_type", patient="patient")  # doctest: +SKIP
    >>> ax = ds.pl.classification(found)  # doctest: +SKIP
    """
    from deepspot.tl._patients.resampling import Classification

    return draw(results, Classification, score="macro F1", what="labels", ax=ax)
