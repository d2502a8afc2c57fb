"""Predictors of lazyslide-models by name, if their weights run no code."""

from __future__ import annotations

from typing import Any

from deepspot._core.hub import explain_hub_errors
from deepspot._core.keys import key_in
from deepspot.encoders import EncoderCard
from deepspot.encoders._lazyslide import LIBRARY, PREFIX, runs_code
from deepspot.encoders._zoo.find import hub_errors
from deepspot.errors import InputError, MissingPackageError

from .adapt import AdaptedModel, adapt

# Reviewed predictors of lazyslide-models 0.1. The source of most shows that their weights contain code: all but STPath,
# whose network is code of that package and whose weights are plain tensors.
READ = frozenset({"focus", "focuslitenn", "path2space", "pathprofilerqc", "stpath"})
READ |= {f"spider-{organ}" for organ in ("breast", "colorectal", "skin", "thorax")}
TASKS = ("feature_prediction", "tile_prediction")
# Reasons that the source of the class does not show.
NEEDS = {"deepspotm": "it loads weights with code of the package deepspotm, which was not reviewed"}


def from_lazyslide(name: str) -> AdaptedModel:
    """Return the model of a predictor in the registry of lazyslide-models, for example ``"lazyslide:stpath"``.

    It loads its own weights. No token is passed, because the library would store it; HF_TOKEN is used.
    """
    try:
        from lazyslide_models import MODEL_REGISTRY
    except ImportError as error:
        raise MissingPackageError(
            'Models named `lazyslide:...` need lazyslide-models. Install it with `pip install ".[zoo]"`.'
        ) from error
    # A task is a member of an enumeration, or a list of them.
    predictors = sorted(key for key, model in MODEL_REGISTRY.items() if _tasks(model) & set(TASKS))
    key = key_in(name.removeprefix(PREFIX), predictors, "predictors in lazyslide_models.MODEL_REGISTRY")
    model: Any = MODEL_REGISTRY[key]
    page = getattr(model, "hf_url", None) or getattr(model, "github_url", None) or ""
    reason = NEEDS.get(key) or runs_code(key, model, READ)
    if reason:
        raise InputError(
            f"Model {name!r} is not loaded: {reason}. deepspot runs no code from repositories. If you trust it, "
            f"construct it with {LIBRARY} and pass the object to `ds.models.adapt`; its page is {page}, its license "
            f"{model.license}."
        )
    card = EncoderCard(name=name, dim=1, license=str(model.license), url=page)
    with explain_hub_errors(hub_errors(card, page, page)):
        try:
            predictor, missing = model(), None
        except ImportError as error:  # the hub's errors are others
            predictor, missing = None, error
    if missing is not None:
        raise MissingPackageError(f"Model {name!r} needs another package. {missing}") from missing
    return adapt(predictor, name=name, license=str(model.license))


def _tasks(model: Any) -> set[str]:
    tasks = getattr(model, "task", ())
    return {getattr(task, "value", str(task)) for task in (tasks if isinstance(tasks, list | tuple | set) else [tasks])}
