from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._resampled import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.tl._patients._results import Classification


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
    from deepspot.tl._patients._results import Classification

    return draw(results, Classification, score="macro F1", what="labels", ax=ax)
