from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._resampled import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.tl._patients._results import Survival


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
    from deepspot.tl._patients._results import Survival

    return draw(results, Survival, score="concordance", what="outcomes", ax=ax, chance=0.5)
