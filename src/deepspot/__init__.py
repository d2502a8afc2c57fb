"""Predict spatial transcriptomics from H&E images in SpatialData objects."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ._core.settings import settings
from ._features.cache import clear_cache

if TYPE_CHECKING:
    from . import cohort, datasets, encoders, errors, io, models, pl, pp, tl
    from ._report.cohort import report_cohort
    from ._report.report import report
    from ._view.view import view

__all__ = [
    "clear_cache",
    "cohort",
    "datasets",
    "encoders",
    "errors",
    "io",
    "models",
    "pl",
    "pp",
    "report",
    "report_cohort",
    "settings",
    "tl",
    "view",
]
__version__ = version("deepspot")

_FUNCTIONS = {"report": "._report.report", "report_cohort": "._report.cohort", "view": "._view.view"}


def __getattr__(name: str) -> Any:
    # Namespaces load on first use, so that `import deepspot` stays cheap.
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name], __name__), name)
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
