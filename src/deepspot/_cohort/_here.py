"""Slides one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ._job import Job, Outcome
from ._one_slide import run_slide

if TYPE_CHECKING:
    from deepspot.models import DeepSpot


class Here:
    """Run jobs in this process.

    Parameters
    ----------
    model
        The model, as it is loaded here.
    """

    def __init__(self, model: DeepSpot) -> None:
        self.model = model

    def workers(self) -> int:
        """How many slides are worked on at once."""
        return 1

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do the jobs, and tell of each when it has come to its end."""
        for job in jobs:
            yield run_slide(job, self.model)
