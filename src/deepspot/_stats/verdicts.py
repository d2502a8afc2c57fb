"""Verdicts in words on how far the prediction of a gene can be trusted, from its expected r and its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd

# The lower end of the interval of r from which the pattern of a gene is called usable.
USABLE_R = 0.2
USABLE, WEAK, NONE, FEW, UNKNOWN, INVALID = (
    "usable as a pattern",
    "weak",
    "no evidence",
    "too few patients",
    "not measured",
    "not valid here",
)
# In order, the best first.
MEANING = {
    USABLE: f"r is above {USABLE_R:g} on 95 % of the slides of new patients (lower end of the interval)",
    WEAK: f"r is above 0 on 95 % of the slides of new patients, and not above {USABLE_R:g}",
    NONE: "the interval contains 0: on a new patient the map may have nothing to do with the gene",
    FEW: "r was measured on fewer than three held-out patients: how far a new patient deviates is unknown",
    UNKNOWN: "r was never measured for this gene",
    INVALID: "r was measured on other tissue, or on larger areas, and does not apply to this slide",
}


def verdicts(r: np.ndarray, low: np.ndarray, *, valid: bool = True) -> pd.Categorical:
    """Return the verdict on each gene from its expected r and the lower end of its 90 % interval, NaN if unknown.

    Categories are ordered, the best first. `valid` is False if the expected r does not apply to the slide.
    """
    r, low = np.asarray(r, dtype=float), np.asarray(low, dtype=float)
    rules = [np.full(len(r), not valid), np.isnan(r), np.isnan(low), low > USABLE_R, low > 0]
    words = np.select(rules, [INVALID, UNKNOWN, FEW, USABLE, WEAK], NONE)
    return pd.Categorical(words, list(MEANING), ordered=True)
