"""The report of one slide: what is known of it, put into words and figures for people who read slides."""

from ._build import build_report
from ._survey import Wishes

__all__ = ["Wishes", "build_report"]
