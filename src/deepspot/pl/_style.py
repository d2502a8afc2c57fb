"""Colors for all kinds of color vision, axes, and checks shared by the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from deepspot._core.validate import check_same_length
from deepspot.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

# Okabe and Ito, with a darker yellow that is visible on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B3A800")
BLUE, ORANGE, GRAY = COLORS[0], COLORS[1], "#8A8A8A"
MISSING, GRID = "#D9D9D9", "#E5E5E5"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def one_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return the given axes, else those of a new figure."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def several_axes(ax: Axes | Sequence[Axes], n: int, what: str) -> list[Axes]:
    """Return the given axes as a list; raise if there is not one for each panel."""
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    check_same_length(given, range(n), f"`ax` and the {what}")
    return given


def by_name(results: Any, kind: type[T]) -> dict[str, T]:
    """Return results of a kind by name; a single one has the name ""."""
    named = {str(name): result for name, result in results.items()} if isinstance(results, Mapping) else {"": results}
    if not named:
        raise InputError(f"There is nothing to draw. Pass a {kind.__name__}, or a mapping from names to them.")
    for result in named.values():
        if not isinstance(result, kind):
            raise InputTypeError(
                f"Only a {kind.__name__} can be drawn here, or a mapping from names to them, not a "
                f"{type(result).__name__}."
            )
    return named
