from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._benchmark import COLOURS, GREY, MARKERS
from ._resampled import named

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from deepspot.tl._patients.agreement import BulkAgreement

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

    A line for each kind of preservation, and a colour for each result. The grey bands are the 95 % intervals of the
    same with shuffled bulk profiles.

    Parameters
    ----------
    results
        From :func:`deepspot.tl.bulk_agreement`, or several by the names of their systems.
    order, top, statistic
        As in :meth:`deepspot.tl.BulkAgreement.curve`: genes from the most variable one on, numbers of genes, and mean
        or median over them.
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
    >>> found = ds.tl.bulk_agreement(profiles, bulk, match="patient")  # doctest: +SKIP
    >>> ax = ds.pl.bulk_agreement({"DeepSpot": found}, top=(100, 500, 1000))  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    from deepspot.tl._patients.agreement import BulkAgreement

    drawn = named(results, BulkAgreement)
    curves = {name: result.curve(order=order, top=top, statistic=statistic) for name, result in drawn.items()}
    numbers = sorted({int(n) for curve in curves.values() for n in curve["n"]})
    kinds = list(dict.fromkeys(group for curve in curves.values() for group in curve["group"]))
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        slides = drawn[name].summary()["slides"]
        for group, line in curve.groupby("group", sort=False):
            label = ", ".join(filter(None, [name, str(group) if len(kinds) > 1 or group != "all" else ""]))
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[kinds.index(group) % len(LINES)]}
            _line(ax, line, numbers, f"{label or 'pseudobulk'} ({slides[group]:.0f} slides)", style, number)
    _label(ax, numbers, statistic)
    return ax


def _line(ax: Axes, line: pd.DataFrame, numbers: list[int], label: str, style: Mapping[str, Any], number: int) -> None:
    # Numbers of genes are drawn at even distances, as 100 and 5000 have no scale in common that can be read.
    x = np.searchsorted(numbers, line["n"])
    band = "shuffled profiles (95 %)" if not ax.collections else None
    ax.fill_between(x, line["null_low"], line["null_high"], color=GREY, alpha=0.25, linewidth=0, zorder=1, label=band)
    ax.plot(x, line["r"], marker=MARKERS[number % len(MARKERS)], markersize=5, label=label, zorder=3, **style)


def _label(ax: Axes, numbers: list[int], statistic: str) -> None:
    ax.set_xticks(np.arange(len(numbers)), [f"{n:,}" for n in numbers])
    ax.set_xlabel("number of genes, the most variable ones first")
    ax.set_ylabel(f"Pearson r of pseudobulk and bulk RNA\nover patients ({statistic} of the genes)")
    ax.axhline(0, color="black", linewidth=0.8, zorder=0)
    ax.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    last = sorted(range(len(labels)), key=lambda at: labels[at].startswith("shuffled"))
    ax.legend(
        [handles[at] for at in last], [labels[at] for at in last], frameon=False, loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip
