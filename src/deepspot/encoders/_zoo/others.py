"""Image models of lazyslide-models that have no card of their own here, by their name in its registry."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deepspot._core.hub import explain_hub_errors
from deepspot._core.validate import key_in
from deepspot.encoders._card import EncoderCard
from deepspot.encoders._lazyslide import adapt

from .hub import words
from .load import refusal, tell_licence

if TYPE_CHECKING:
    from deepspot.encoders._protocol import Encoder

PREFIX = "lazyslide:"
# Classes of lazyslide-models 0.1 whose source was read: networks of timm or transformers, weights as bare tensors.
READ = (
    "crisp", "crown", "gigapath", "gigapath-flash", "gpfm", "h-optimus-0", "h-optimus-1", "h0-mini", "lunit-bt",
    "lunit-dino-s16", "lunit-dino-s8", "lunit-dino-s8-moozy", "lunit-mocov2", "lunit-swav", "medsiglip", "midnight",
    "mstar", "path_orchestra", "phikon", "phikonv2", "plip", "uni", "uni2", "virchow", "virchow2",
)  # fmt: skip
# What runs code that comes with weights, should a later version of these do so.
RUNS_CODE = ("trust_remote_code", "torch.hub", "weights_only=False", '"weights_only"', ".jit", "torch.export", "pickle")


def from_lazyslide(name: str) -> Encoder:
    """Encoder of an image model of the registry, for example ``"lazyslide:gpfm"``; it loads its own weights."""
    key = name.removeprefix(PREFIX)
    registry = _registry()
    model = registry[key_in(key, _image_models(registry), "lazyslide_models.MODEL_REGISTRY")]
    page = getattr(model, "hf_url", None) or getattr(model, "github_url", None) or ""
    card = EncoderCard(
        name=name, dim=getattr(model, "encode_dim", None) or 1, licence=str(model.license), url=page,
        remote_code=runs_code(key, model),
    )  # fmt: skip
    if card.remote_code:
        raise refusal(card)
    with explain_hub_errors(words(card, page, page)):
        # No token is handed over: what takes one logs the user in for good. HF_TOKEN is found without.
        made = adapt(model(), name=name)
    tell_licence(card)
    return made


def runs_code(key: str, model: type[Any]) -> str:
    """Why a class is not instantiated; empty if it may be."""
    if key not in READ:
        return "its class is not one of those whose source was read, so that nobody knows what its weights run"
    for part in model.__mro__:
        if part.__module__.partition(".")[0] != "lazyslide_models":
            continue
        try:
            source = inspect.getsource(import_module(part.__module__))
        except OSError:
            return f"the source of {part.__module__} cannot be read, so that nobody knows what it runs"
        found = [word for word in RUNS_CODE if word in source]
        if found:
            return f"{part.__module__} uses `{found[0]}`, which runs code that comes with weights"
    return ""


def _image_models(registry: Any) -> list[str]:
    return sorted(key for key, model in registry.items() if hasattr(model, "encode_image"))


def _registry() -> Any:
    try:
        from lazyslide_models import MODEL_REGISTRY
    except ImportError as error:
        raise ImportError(
            'Encoders named `lazyslide:...` need lazyslide-models. Install it with `pip install "deepspot[zoo]"`.'
        ) from error
    return MODEL_REGISTRY
