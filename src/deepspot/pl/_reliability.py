from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import keys_in
from deepspot.errors import InputError

from ._style import BLUE, GRAY, ORANGE, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.models import DeepSpot

FROM = {
    "patients": "on {n} patients it had not seen",
    "slides": "on {n} left-out slides of one patient; expect less on another",
    "blocks": "on {n} left-out parts of one slide; expect less elsewhere",
}
NAMED = 3


def reliability(model: DeepSpot, *, genes: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw how well a model predicts each of its genes on tissue that it had not seen.

    Genes are ranked by their expected Pearson r within a slide. Bars are 90 % intervals over patients; genes whose
    interval is above 0 are blue; the others, whose prediction may be uninformative, are gray.

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
        If the model does not know how reliable it is.
    KeyError
        If a gene is not one of the model's.

    Examples
    --------
    >>> import deepspot as ds
    >>> ax = ds.pl.reliability(ds.models.load())
    """
    card = model.card
    if card.reliability is None:
        raise InputError(
            "The model does not know how reliable it is: its gate was switched off. Train it with `ds.models.train`."
        )
    found = card.reliability
    r, low, high = (np.array(values, dtype=float) for values in (found.r, found.r_low, found.r_high))
    order = np.argsort(-np.nan_to_num(r, nan=-2))
    order = order[np.isfinite(r[order])]
    ax = one_axes(ax, (7, 4))
    rank, sure = np.arange(1, len(order) + 1), low[order] > 0
    for chosen, color, label in ((sure, BLUE, "interval above 0"), (~sure, GRAY, "may be worth nothing")):
        ax.vlines(rank[chosen], low[order][chosen], high[order][chosen], color=color, alpha=0.25, linewidth=1)
        ax.plot(
            rank[chosen], r[order][chosen], ".", color=color, markersize=4, label=f"{chosen.sum():,} genes: {label}"
        )
    wanted = [*order[:NAMED], *order[len(order) - NAMED :]]
    if genes is not None:
        wanted = [card.genes.index(gene) for gene in keys_in(genes, card.genes, "genes of the model")]
    _name(ax, card.genes, r, order, wanted)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        xlabel="genes, from the best predicted to the worst",
        ylabel="Pearson r within a slide",
        title=f"Model {card.name!r} {FROM[found.unit].format(n=found.n)}",
        ylim=(max(-1, np.nanmin([low[order].min(initial=0), r[order].min(initial=0), -0.2])), 1),
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper right", markerscale=2)
    return ax


def _name(ax: Axes, names: list[str], r: np.ndarray, order: np.ndarray, wanted: Sequence[int]) -> None:
    place = {int(gene): rank for rank, gene in enumerate(order, start=1)}
    for number, gene in enumerate(gene for gene in wanted if int(gene) in place):
        x, left = place[int(gene)], place[int(gene)] < len(order) / 2
        # Neighbors in rank are written one above the other.
        shift = (12 + 11 * (number % NAMED)) * (1 if left else -1)
        arrow, side = {"arrowstyle": "-", "color": ORANGE, "lw": 0.6}, "left" if left else "right"
        style: dict[str, Any] = {"fontsize": 8, "color": ORANGE, "ha": side, "arrowprops": arrow}
        ax.annotate(names[gene], (x, r[gene]), (10 if left else -10, shift), textcoords="offset points", **style)
