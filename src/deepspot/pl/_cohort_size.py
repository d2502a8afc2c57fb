from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, key_in
from deepspot.errors import InputError

from ._style import COLORS, GRAY, by_name, several_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {"patients": "patients", "slides": "slides", "spots": "spots"}


@checked
def cohort_size(
    results: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    groupby: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot the numbers of patients, slides and spots of one cohort or of several.

    Only finished slides are counted; the label of a cohort says how many others there are. A patient counts once in
    each group, so groups do not sum to a cohort if patients have slides in several, such as frozen and FFPE.

    Parameters
    ----------
    results
        Run table of :func:`deepspot.cohort.run`, or `obs` of its ``pseudobulk.h5ad``, which also has the columns of the
        manifest; or a mapping from names of cohorts to these.
    groupby
        Column that splits the bars, such as ``"preservation"``.
    figsize
        Width and height in inches; by default from the number of bars.
    ax
        Three axes to draw into; by default a new figure.

    Returns
    -------
    The axes of patients, slides and spots.

    Raises
    ------
    KeyError
        If a table lacks the columns `patient` and `spots`, or `groupby`.
    ValueError
        If there is nothing to draw, or `ax` does not hold three axes.
    TypeError
        If a result is not a data frame.

    References
    ----------
    DeepSpot, figure 6A.

    Examples
    --------
    >>> import deepspot as ds
    >>> import pandas as pd
    >>> runs = pd.DataFrame({"patient": ["A", "A", "B"], "spots": [900, 1100, 2000], "stage": ["II", "II", "III"]})
    >>> [ax.get_title() for ax in ds.pl.cohort_size({"kidney": runs}, groupby="stage")]
    ['patients', 'slides', 'spots']
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    parts, labels = [], []
    for name, table in by_name(results, pd.DataFrame).items():
        for column in ("patient", "spots", *([groupby] if groupby else [])):
            key_in(column, table.columns, f"columns of the results{f' of {name!r}' if name else ''}")
        done = table[table["spots"].notna()]
        group = done[groupby].astype(object).where(done[groupby].notna(), "unknown").astype(str) if groupby else "all"
        sizes = (
            done.assign(group=group)
            .groupby("group", sort=False)
            .agg(patients=("patient", "nunique"), slides=("spots", "size"), spots=("spots", "sum"))
        )
        parts.append(sizes)
        left = len(table) - len(done)
        labels.append(f"{name}\n({left:,} not finished)".strip() if left else name)
    groups = list(dict.fromkeys(group for sizes in parts for group in sizes.index))
    if not groups:
        raise InputError("No slide is finished, so there is nothing to count.")
    height = 0.8 / len(groups)
    axes = several_axes(ax, len(PANELS), "panels") if ax is not None else None
    if axes is None:
        size = figsize or (11, 1.1 + 0.34 * len(parts) * len(groups) + 0.15 * len(parts))
        axes = list(plt.subplots(1, len(PANELS), figsize=size, sharey=True, layout="constrained")[1])
    for panel, (column, title) in zip(axes, PANELS.items(), strict=True):
        for number, group in enumerate(groups):
            places = np.arange(len(parts)) + (number - (len(groups) - 1) / 2) * height
            widths = [int(sizes[column].get(group, 0)) for sizes in parts]
            color = COLORS[number % len(COLORS)] if groupby else GRAY
            bars = panel.barh(places, widths, height=0.9 * height, color=color, label=group)
            panel.bar_label(bars, [f"{width:,}" if width else "" for width in widths], padding=3, fontsize="small")
        panel.set(title=title, yticks=range(len(parts)), yticklabels=labels)
        panel.margins(x=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(plt.MaxNLocator(4, integer=True))
        panel.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[0].invert_yaxis()
    if groupby:
        axes[-1].legend(frameon=False, title=groupby, loc="center left", bbox_to_anchor=(1, 0.5))
    return axes
