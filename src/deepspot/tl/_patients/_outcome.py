"""Who died when: what the status of a patient means is asserted, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

TWO = 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """Outcome of patients.

    Attributes
    ----------
    time
        (n,) float64, to death or to when a patient was last seen.
    died
        (n,) bool; False is censored.
    """

    time: np.ndarray
    died: np.ndarray


def outcome(obs: pd.DataFrame, *, time: str, status: str, event: Any) -> Outcome:
    """Read the outcome of patients.

    Parameters
    ----------
    obs
        By the name of the patient.
    time, status
        Columns of it.
    event
        The value of `status` that means that the patient died.
    """
    return Outcome(_times(obs[time], time), _died(obs[status], status, event))


def _times(column: pd.Series, name: str) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        shown = {str(who): value for who, value in column[wrong].iloc[:5].items()}
        raise ValueError(
            f"obs[{name!r}] must be a time of 0 or more for every patient; {wrong.sum()} are missing or below 0, such "
            f"as {shown}. Correct them, or leave these patients out."
        )
    return values


def _died(column: pd.Series, name: str, event: Any) -> np.ndarray:
    missing = column.isna()
    if missing.any():
        raise ValueError(
            f"obs[{name!r}] is missing for {missing.sum()} patients, such as {list(column.index[missing][:5])}. Fill "
            "it in, or leave them out."
        )
    values = column.astype(object)
    counts = {value: int(number) for value, number in values.value_counts().items()}
    if len(counts) != TWO:
        raise ValueError(
            f"obs[{name!r}] must have two values, that of a patient who died and that of one who was censored; the "
            f"numbers of patients are {counts}. Make it a column of two values."
        )
    if event not in counts:
        raise ValueError(
            f"`event` is {event!r}, but obs[{name!r}] holds {' and '.join(map(repr, counts))}; the numbers of patients "
            f"are {counts}. Pass the one that means that the patient died: in a column of deaths it is mostly 1, in a "
            "column of censorship it is 0."
        )
    return (values == event).to_numpy(dtype=bool)
