"""How far a cohort is, and how long it will take: slides differ tenfold in size, so that their number says little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from deepspot._logging import bar, logger

from ._job import Outcome


class Progress:
    """One bar over the cohort; where the output is no terminal, one line for each slide.

    Parameters
    ----------
    sizes
        Size of every slide that is to be done, in any unit.
    total, done
        Number of slides of the cohort, and of those that were finished before.
    workers
        Says how many slides are worked on at once.
    """

    def __init__(self, sizes: Mapping[str, float], total: int, done: int, workers: Callable[[], int]) -> None:
        self.left = dict(sizes)
        self.total, self.finished, self.failed, self.workers = total, done, 0, workers
        self.seconds = self.size = 0.0

    def __enter__(self) -> Progress:
        self.bar = bar("Slides", total=self.total, unit="slide")
        # tqdm's own estimate takes all slides for equal.
        self.bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
        self.bar.update(self.finished)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def tell(self, outcome: Outcome) -> None:
        """Say that a slide has come to its end."""
        size = self.left.pop(outcome.slide, 0.0)
        self.finished += 1
        self.failed += not outcome.done
        if outcome.done and outcome.seconds is not None:
            self.seconds, self.size = self.seconds + outcome.seconds, self.size + size
        left = self.time_left()
        said = [f"{self.failed} failed"] * bool(self.failed) + ([f"about {left} left"] if left else [])
        self.bar.set_postfix_str(", ".join(said), refresh=False)
        self.bar.update()
        if self.bar.disable:
            logger.info("%s", ", ".join([f"{self.finished}/{self.total} slides", *said]))

    def time_left(self) -> str:
        """How long it will take, in words; nothing if that is not known, or nothing is left."""
        if not self.left or not self.size:
            return ""
        at_once = max(1, min(self.workers(), len(self.left)))
        return in_words(sum(self.left.values()) * self.seconds / self.size / at_once)


def in_words(seconds: float) -> str:
    """A time as people say it."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return "a minute"
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"
