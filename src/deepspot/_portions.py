from __future__ import annotations

from collections import deque

import numpy as np


class Portions:
    """Rows of arrays that are put in at one end and taken out at the other, in whatever portions.

    Attributes
    ----------
    n
        How many rows there are.
    """

    def __init__(self) -> None:
        self.arrays: deque[np.ndarray] = deque()
        self.n = 0

    def put(self, array: np.ndarray) -> None:
        """Add rows."""
        self.arrays.append(array)
        self.n += len(array)

    def take(self, n: int) -> np.ndarray:
        """Take the first `n` rows, at most all that there are, and at least one."""
        n = min(n, self.n)
        self.n -= n
        taken = []
        while n:
            first = self.arrays.popleft()
            if len(first) > n:
                self.arrays.appendleft(first[n:])
            taken.append(first[:n])
            n -= len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)
