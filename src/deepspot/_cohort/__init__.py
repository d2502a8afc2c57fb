"""A cohort of slides: the manifest, one slide, where it runs, and what is kept of all."""

from ._cluster import local_workers
from ._run import Options, run_cohort

__all__ = ["Options", "local_workers", "run_cohort"]
