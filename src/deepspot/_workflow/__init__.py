"""``deepspot report``: from a slide to its report in one call."""

from ._plan import Plan
from ._run import run_report

__all__ = ["Plan", "run_report"]
