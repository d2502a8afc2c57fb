"""Prediction in blocks of spots: what is held beside the result does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deepspot._bags import Bags
    from deepspot.models import DeepSpot

ROWS = 1024


def predict_in_blocks(model: DeepSpot, bags: Bags, *, device: str | None, rows: int = ROWS) -> np.ndarray:
    """Predict log-expression (n, genes) as the model does, at most `rows` spots and their neighbours at once."""
    expression = np.empty((len(bags), len(model.card.genes)), dtype=np.float32)  # type: ignore[union-attr]
    for block, part in blocks(bags, rows):
        expression[block] = model.predict(part, device=device, rows=np.arange(len(block)))
    return expression


def blocks(bags: Bags, rows: int) -> Iterator[tuple[np.ndarray, Bags]]:
    """Rows of a block (b,), and bags whose first b spots are these. The others serve as neighbours only."""
    if len(bags) <= rows:
        yield np.arange(len(bags)), bags
        return
    # Strips across the slide have few neighbours outside, in whatever order the spots come.
    order = np.arange(len(bags)) if bags.position is None else np.argsort(bags.position[:, 1], kind="stable")
    for at in range(0, len(order), rows):
        yield order[at : at + rows], bags.around(order[at : at + rows])
