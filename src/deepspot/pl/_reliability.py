from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import checked, keys_in
from deepspot.errors import InputError

from ._style import BLUE, GRAY, ORANGE, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.models import Model

TITLES = {
    "patients": "on {n} held-out patients",
    "slides": "on {n} held-out slides of one patient; expect less on another patient",
    "blocks": "on {n} held-out parts of one slide; expect less on another slide",
}
N_NAMED, FONT_SIZE = 3, 8


@checked
def reliability(model: Model, *, genes: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Plot the accuracy of a model for each gene on held-out tissue.

    Genes are ranked by their expected Pearson r within a slide. Bars are 90 % intervals of r on the next slide of a new
    patient. Genes with an interval above 0 are blue. For genes in gray, the prediction may not be better than chance.
    Genes without an interval, because fewer than three patients were held out, are black.

    Parameters
    ----------
    model
        From :func:`deepspot.models.train` or :func:`deepspot.models.load`.
    genes
        Genes to name in the figure; by default the three best and the three worst.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the reliability of the model was not measured.
    KeyError
        If the model does not predict a gene.

    Examples
    --------
    >>> import deepspot as ds
    >>> ax = ds.pl.reliability(ds.models.load())
    """
    card = model.card
    if card.reliability is None:
        raise InputError(
            "The reliability of the model is unknown because it was trained without the gate. Train it with "
            "`ds.models.train`."
        )
    scores = card.reliability
    r, low, high = (np.array(values, dtype=float) for values in (scores.r, scores.r_low, scores.r_high))
    order = np.argsort(-np.nan_to_num(r, nan=-2))
    order = order[np.isfinite(r[order])]
    named = [*order[:N_NAMED], *order[max(N_NAMED, len(order) - N_NAMED) :]]
    if genes is not None:
        named = [card.genes.index(gene) for gene in keys_in(genes, card.genes, "genes of the model")]
    ax = one_axes(ax, (7, 5))
    rank, low, high, r = np.arange(1, len(order) + 1), low[order], high[order], r[order]
    unknown = ~np.isfinite(low)
    kinds = {
        "interval above 0": (low > 0, BLUE),
        "interval includes 0": (~unknown & ~(low > 0), GRAY),
        "no interval": (unknown, "black"),
    }
    for label, (chosen, color) in kinds.items():
        if chosen.any():
            ax.vlines(rank[chosen], low[chosen], high[chosen], color=color, alpha=0.25, linewidth=1)
            label = f"{chosen.sum():,} genes: {label}"
            ax.plot(rank[chosen], r[chosen], ".", color=color, markersize=4, label=label, zorder=3)
    ax.axhline(0, color="black", linewidth=0.8)
    bottom, top = np.nanmin([*low, *r, -0.2]), np.nanmax([*high, *r, 0.2])
    ax.set(
        xlabel="genes, by decreasing r",
        ylabel="Pearson r within a slide",
        xlim=(rank[0] - 0.02 * len(rank) - 1, rank[-1] + 0.02 * len(rank) + 1) if len(rank) else None,
        ylim=(max(-1.0, bottom) - 0.04, min(1.0, top) + 0.04),
    )
    ax.spines[["top", "right"]].set_visible(False)
    place = {int(gene): number for number, gene in enumerate(order)}
    chosen = sorted(place[int(gene)] for gene in named if int(gene) in place)
    _name(ax, [card.genes[order[number]] for number in chosen], rank[chosen], r[chosen])
    ax.set_title(f"Model {card.name!r} {TITLES[scores.unit].format(n=scores.n)}")
    if len(order):
        # Below the axes, so that it hides no genes.
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), markerscale=2, ncols=3)
    return ax


def _name(ax: Axes, names: list[str], x: np.ndarray, y: np.ndarray) -> None:
    """Name points, given by increasing x, along the upper edge of the axes, side by side."""
    if not names:
        return
    left, right = ax.get_xlim()
    _, top = ax.get_ylim()
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    step = min(1.5 * FONT_SIZE / points, 1 / len(names)) * (right - left)
    # Each name is at least a step right of the previous one, and far enough from the right edge for the next ones.
    number = np.arange(len(names))
    at = np.maximum.accumulate(x - number * step) + number * step
    at = np.minimum(at, right - (number[::-1] + 0.5) * step)
    for start, end, height in zip(at, x, y, strict=True):
        ax.plot([start, end], [top, height], color=ORANGE, linewidth=0.6, zorder=2)
    upper = ax.secondary_xaxis("top")
    upper.set_xticks(at, names, rotation=90, fontsize=FONT_SIZE, color=ORANGE)
    upper.tick_params(length=0, pad=1)
    upper.spines["top"].set_visible(False)
