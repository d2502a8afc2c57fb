from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked, keys_in
from deepspot.errors import InputError

from ._style import BLUE, GRAY, ORANGE, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.models import DeepSpot

TITLES = {
    "patients": "on {n} held-out patients",
    "slides": "on {n} held-out slides of one patient; expect less on another patient",
    "blocks": "on {n} held-out parts of one slide; expect less on another slide",
}
N_NAMED = 3


@checked
def reliability(model: DeepSpot, *, genes: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Plot the accuracy of a model for each gene on held-out tissue.

    Genes are ranked by their expected Pearson r within a slide. Bars are 90 % intervals of r on the next slide of
    a new patient. Genes with an interval above 0 are blue. For the others, in gray, the prediction may not be better
    than chance, or fewer than three patients were held out, so that there is no interval.

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
    ax = one_axes(ax, (7, 4))
    rank, above = np.arange(1, len(order) + 1), low[order] > 0
    none = np.isnan(low[order])
    groups = (
        (above, BLUE, "interval above 0"),
        (~above & ~none, GRAY, "interval includes 0"),
        (none, GRAY, "no interval"),
    )
    for chosen, color, label in (group for group in groups if group[0].any()):
        ax.vlines(rank[chosen], low[order][chosen], high[order][chosen], color=color, alpha=0.25, linewidth=1)
        ax.plot(
            rank[chosen], r[order][chosen], ".", color=color, markersize=4, label=f"{chosen.sum():,} genes: {label}"
        )
    named = [*order[:N_NAMED], *order[len(order) - N_NAMED :]]
    if genes is not None:
        named = [card.genes.index(gene) for gene in keys_in(genes, card.genes, "genes of the model")]
    _name(ax, card.genes, r, order, named)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        xlabel="genes, by decreasing r",
        ylabel="Pearson r within a slide",
        title=f"Model {card.name!r} {TITLES[scores.unit].format(n=scores.n)}",
        ylim=(max(-1, np.nanmin([np.nanmin(low[order], initial=0), r[order].min(initial=0), -0.2])), 1),
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper right", markerscale=2)
    return ax


def _name(ax: Axes, names: list[str], r: np.ndarray, order: np.ndarray, named: Sequence[int]) -> None:
    place = {int(gene): rank for rank, gene in enumerate(order, start=1)}
    for number, gene in enumerate(gene for gene in named if int(gene) in place):
        x, left = place[int(gene)], place[int(gene)] < len(order) / 2
        # The names of genes of similar rank are stacked.
        shift = (12 + 11 * (number % N_NAMED)) * (1 if left else -1)
        arrow, side = {"arrowstyle": "-", "color": ORANGE, "lw": 0.6}, "left" if left else "right"
        style: dict[str, Any] = {"fontsize": 8, "color": ORANGE, "ha": side, "arrowprops": arrow}
        ax.annotate(names[gene], (x, r[gene]), (10 if left else -10, shift), textcoords="offset points", **style)
