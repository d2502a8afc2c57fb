"""Tables of a cross-validation: categories of names, and reading from files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from deepspot._stats.agreement import OF_VALUES

from .measures import BY_GENE, MEASURES
from .statistics import UNDEFINED

NUMBERS = ["r_pooled", "r_ceiling", "area", *MEASURES, *BY_GENE, *OF_VALUES]


def read_table(file: Path) -> pd.DataFrame:
    """Read a table without a loss of names or digits."""
    # As text first: a gene or a patient may be called NA or 007, and r must not be rounded.
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in frame.columns.intersection(NUMBERS):
        frame[column] = [float(value or "nan") for value in frame[column]]
    for column in frame.columns.intersection(["rank", "setting"]):
        frame[column] = frame[column].astype("int64")
    if "null" in frame:
        frame["null"] = frame["null"] == "True"
    return frame


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Convert names to categories in the order of their appearance."""
    for column in table.columns.intersection(["model", "fold", "patient", "slide", "gene"]):
        table[column] = pd.Categorical(table[column], categories=list(dict.fromkeys(table[column])))
    if "undefined" in table:
        table["undefined"] = pd.Categorical(table["undefined"], categories=list(UNDEFINED))
    return table
