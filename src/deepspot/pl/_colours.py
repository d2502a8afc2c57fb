"""Colours of groups: the same for the same groups in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._benchmark import COLOURS

if TYPE_CHECKING:
    from anndata import AnnData

# Beyond eight groups no palette is safe for everybody: the first eight, then lighter ones of other hues.
MORE = ("#332288", "#882255", "#44AA99", "#DDCC77", "#AA4499", "#999933", "#661100", "#6699CC", "#888888", "#117733")


def group_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each group, by its place; they repeat after eighteen."""
    palette = (*COLOURS, *MORE)
    return {name: palette[place % len(palette)] for place, name in enumerate(names)}


def label_colours(table: AnnData, key: str, names: Sequence[str]) -> dict[str, str]:
    """Colour of each label of a column: those that scanpy or an annotation left in the table, else ours."""
    theirs = table.uns.get(f"{key}_colors")
    if theirs is not None and len(theirs) == len(names):
        return dict(zip(names, map(str, theirs), strict=True))
    return group_colours(names)
