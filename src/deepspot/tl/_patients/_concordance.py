from __future__ import annotations

import numpy as np


def concordance(time: np.ndarray, died: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's concordance index: in which share of pairs the patient with the higher risk dies first.

    A pair counts if it is known who died first: one died, and the other was alive at that time, even if only just.
    Two who died at the same time are no pair. Equal risks count half.

    Parameters
    ----------
    time, died, risk
        (n,) of patients; `died` is bool, False if censored at this time.

    Returns
    -------
    From 0 to 1; NaN if no pair counts.
    """
    first, second = time[:, None], time[None, :]
    pairs = died[:, None] & ((first < second) | ((first == second) & ~died[None, :]))
    if not pairs.any():
        return float("nan")
    higher, equal = risk[:, None] > risk[None, :], risk[:, None] == risk[None, :]
    return float((higher[pairs].sum() + 0.5 * equal[pairs].sum()) / pairs.sum())
