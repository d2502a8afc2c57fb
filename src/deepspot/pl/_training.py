from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.keys import checked
from deepspot.errors import InputError

from ._style import BLUE, GRAY, ORANGE, one_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from deepspot.models import DeepSpot

SEARCH = "search"


@checked
def training(model: DeepSpot, *, ax: Axes | None = None) -> Axes:
    """Plot the training loss of every member of a model by epoch.

    If patients were held out to choose the number of epochs, this run is drawn too: its loss on the training patients
    and, with a separate axis on the right, the mean Pearson r over genes on the held-out patients, with the best epoch
    marked. All members were then trained on all patients for this number of epochs.

    Parameters
    ----------
    model
        From :func:`deepspot.models.train` or :meth:`deepspot.models.DeepSpot.fit`.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the model has no history: it was not fitted, it was loaded (a bundle does not contain the curves), or only
        ridge predicts.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    >>> bags = ds.models.Bags(spot, spot[:, None], csr_matrix((50, 50), dtype=bool))
    >>> model = ds.models.DeepSpot(network={"width": 16, "members": 2}, training={"gate": "off"}).fit(bags, spot[:, :3])
    >>> ax = ds.pl.training(model)
    """
    from matplotlib.ticker import MaxNLocator

    if model.history is None:
        raise InputError(
            "The model has no training history: only ridge predicts (see `model.card.gate`), or it "
            "was loaded, and a bundle does not contain the loss curves. Plot them right after `ds.models.train`."
        )
    ax = one_axes(ax, (6, 4))
    curves = dict(list(model.history.groupby("member", sort=False)))
    search = curves.pop(SEARCH, None)
    for number, curve in enumerate(curves.values()):
        label = f"{len(curves)} member{'s' * (len(curves) > 1)}, all patients" if number == 0 else None
        ax.plot(curve["epoch"], curve["train"], color=GRAY, linewidth=1, label=label)
    if search is not None:
        ax.plot(search["epoch"], search["train"], color=BLUE, linewidth=1.8, label="search, training patients")
        _held_out(ax, search)
    ax.set(xlabel="epoch", ylabel=f"loss ({model.training.loss}, genes standardized)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines["top"].set_visible(False)
    if search is None:
        ax.spines["right"].set_visible(False)
        ax.legend(frameon=False)
    return ax


def _held_out(ax: Axes, search: pd.DataFrame) -> None:
    right = ax.twinx()
    r = 1 - search["validation"]
    best = search.loc[search["validation"].idxmin()]
    right.plot(search["epoch"], r, color=ORANGE, linewidth=1.8, label="search, r on held-out patients (right)")
    right.plot(best["epoch"], r.max(), "o", color=ORANGE, label=f"best epoch: {best['epoch']:.0f}")
    right.axvline(best["epoch"], color=ORANGE, linewidth=0.8, linestyle="--")
    right.set_ylabel("mean r over genes", color=ORANGE)
    right.tick_params(axis="y", colors=ORANGE)
    right.spines["top"].set_visible(False)
    handles = [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    ax.legend(handles=handles, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
