"""Data frames that tools leave in a table, for figures and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepspot import _check

if TYPE_CHECKING:
    import pandas as pd


def groups_of(results: pd.DataFrame, groups: str | Sequence[str] | None, argument: str) -> list[str]:
    """Names of the groups of a result as text, in their order there; all, or those that were asked for."""
    known = list(dict.fromkeys(results["group"].astype(str)))
    if groups is None:
        return known
    wanted = [groups] if isinstance(groups, str) else [str(group) for group in groups]
    if not wanted:
        raise ValueError(f"`{argument}` is empty. Name at least one of the groups {known}, or leave it out.")
    return [_check.key_in(group, known, "groups of the result") for group in wanted]
