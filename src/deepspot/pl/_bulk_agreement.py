from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import checked

from ._style import COLORS, GRAY, GRID, MARKERS, by_name, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.cohort._patients.agreement import BulkAgreement

LINES = ("-", "--", ":", "-.")


@checked
def bulk_agreement(
    results: BulkAgreement | Mapping[str, BulkAgreement],
    *,
    order: str | Sequence[str] | None = None,
    top: Sequence[int] | None = None,
    statistic: str = "mean",
    ax: Axes | None = None,
) -> Axes:
    """Plot r between pseudobulk and bulk RNA against the number of top genes.

    There is a line for each kind of preservation, and a color for each result. Gray bands are 95 % intervals with
    shuffled bulk profiles.

    Parameters
    ----------
    results
        Result of :func:`deepspot.cohort.bulk_agreement`, or a mapping from names to results.
    order, top, statistic
        Order of genes, numbers of genes, and ``"mean"`` or ``"median"`` over genes, as in
        :meth:`deepspot.cohort.BulkAgreement.curve`.
    ax
        Axes; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If the column of ranks does not exist.
    TypeError
        If `results` are of another type.
    ValueError
        If there is no result, or the statistic is unknown.

    References
    ----------
    DeepSpot, figure 6B.

    Examples
    --------
    >>> import deepspot as ds
    >>> result = ds.cohort.bulk_agreement(profiles, bulk, match="patient")  # doctest: +SKIP
    >>> ax = ds.pl.bulk_agreement({"DeepSpot": result}, top=(100, 500, 1000))  # doctest: +SKIP
    """
    from deepspot.cohort._patients.agreement import BulkAgreement

    drawn = by_name(results, BulkAgreement)
    curves = {name: result.curve(order=order, top=top, statistic=statistic) for name, result in drawn.items()}
    numbers = sorted({int(n) for curve in curves.values() for n in curve["n"]})
    kinds = list(dict.fromkeys(group for curve in curves.values() for group in curve["group"]))
    ax = one_axes(ax, (7.5, 4.4))
    band: str | None = "shuffled profiles (95 %)"
    for number, (name, curve) in enumerate(curves.items()):
        slides = drawn[name].summary()["slides"]
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        for group, line in curve.groupby("group", sort=False):
            label = ", ".join(filter(None, [name, str(group) if len(kinds) > 1 or group != "all" else ""]))
            label = f"{label or 'pseudobulk'} ({slides[group]:.0f} slides)"
            style = LINES[kinds.index(group) % len(LINES)]
            # Evenly spaced, because neither a linear nor a logarithmic scale shows all numbers well.
            x = np.searchsorted(numbers, line["n"])
            ax.fill_between(x, line["null_low"], line["null_high"], color=GRAY, alpha=0.25, lw=0, zorder=1, label=band)
            ax.plot(x, line["r"], color=color, linestyle=style, marker=marker, markersize=5, label=label, zorder=3)
            band = None
    ax.set_xticks(np.arange(len(numbers)), [f"{n:,}" for n in numbers])
    ax.set_xlabel("number of genes, the most variable ones first")
    ax.set_ylabel(f"Pearson r of pseudobulk and bulk RNA\nover patients ({statistic} of the genes)")
    ax.axhline(0, color="black", linewidth=0.8, zorder=0)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    band_last = sorted(range(len(labels)), key=lambda number: labels[number].startswith("shuffled"))
    handles, labels = [handles[number] for number in band_last], [labels[number] for number in band_last]
    ax.legend(handles, labels, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
