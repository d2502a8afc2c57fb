"""Things timed in turn, so that what else the machine does meets all of them alike; and the table of their ratios."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch


def in_turn(
    calls: dict[str, Callable[[], object]], repeats: int, device: torch.device, *, warm: bool = True
) -> dict[str, np.ndarray]:
    """Seconds of every call in every round (rounds,), after a round that does not count, to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in [*calls.items()] * (warm + repeats):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[int(warm) :]) for name, values in seconds.items()}


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass
class Table:
    """Rows of one part of the table: what is compared, its ratio in every round, and the ratio to reach."""

    part: str
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, what: str, ratio: np.ndarray, goal: str = "", absolute: str = "") -> None:
        text = f"{np.median(ratio):.2f}"
        if len(ratio) > 1:
            text += f" ({ratio.min():.2f} to {ratio.max():.2f})"
        self.write(what, text, goal, absolute)

    def write(self, what: str, text: str, goal: str = "", absolute: str = "") -> None:
        self.rows.append({"part": self.part, "what": what, "ratio": text, "goal": goal, "absolute": absolute})
        print(f"| {self.part} | {what} | {text} | {goal} | {absolute} |", flush=True)


def of(seconds: np.ndarray, n: int, unit: str) -> str:
    """Median time of one of `n`, in words."""
    each = float(np.median(seconds)) / n
    return f"{each * 1e3:.3g} ms {unit}" if each < 1 else f"{each:.3g} s {unit}"
