from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._style import COLORS, GRAY, GRID, MARKERS, by_name, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.cohort._patients.agreement import BulkAgreement

LINES = ("-", "--", ":", "-.")


def bulk_agreement(
    results: BulkAgreement | Mapping[str, BulkAgreement],
    *,
    order: str | Sequence[str] | None = None,
    top: Sequence[int] | None = None,
    statistic: str = "mean",
    ax: Axes | None = None,
) -> Axes:
    """Draw r between pseudobulk and bulk RNA over the top genes against their number.

    A line for each kind of preservation, and a color for each result. The gray bands are the 95 % intervals of the
    same with shuffled bulk profiles.

    Parameters
    ----------
    results
        From :func:`deepspot.cohort.bulk_agreement`, or several by the names of their systems.
    order, top, statistic
        As in :meth:`deepspot.cohort.BulkAgreement.curve`: genes from the most variable one on, numbers of genes, and
        mean or median over them.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If there is no such column of ranks.
    TypeError
        If this is no such result.
    ValueError
        If there is none, or the statistic is another.

    References
    ----------
    DeepSpot, figure 6B.

    Examples
    --------
    >>> import deepspot as ds
    >>> found = ds.cohort.bulk_agreement(profiles, bulk, match="patient")  # doctest: +SKIP
    >>> ax = ds.pl.bulk_agreement({"DeepSpot": found}, top=(100, 500, 1000))  # doctest: +SKIP
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
            # Numbers of genes are drawn at even distances, as 100 and 5000 have no scale in common that can be read.
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
    last = sorted(range(len(labels)), key=lambda at: labels[at].startswith("shuffled"))
    handles, labels = [handles[at] for at in last], [labels[at] for at in last]
    ax.legend(handles, labels, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
