"""Encoders made from image models of LazySlide, or from objects with the same methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.compute import choose_device
from deepspot._core.hashing import digest
from deepspot._core.hub import explain_hub_errors
from deepspot._core.keys import key_in
from deepspot._core.validate import check_text
from deepspot.errors import InputError, InputTypeError, MissingPackageError

from ._card import EncoderCard, check_tiles
from ._fingerprint import describe_code, describe_module, describe_source, without_addresses
from ._zoo.find import hub_errors
from ._zoo.specs import READ, log_license, refusal

if TYPE_CHECKING:
    from ._card import Encoder

# Attributes of LazySlide's ImageModelProtocol. They are checked by name, because LazySlide may not be installed.
NEEDS = ("model", "name", "get_transform", "to", "try_compile", "encode_image")
# Side of the tiles that a transform is tested on. Output with this side was not resized.
PROBE = 301

LIBRARY, PREFIX = "lazyslide_models", "lazyslide:"
# Source text that indicates that code from a weights file is run, in case a later version does so.
RUNS_CODE = ("trust_remote_code", "torch.hub", "weights_only=False", '"weights_only"', ".jit", "torch.export", "pickle")


def adapt(model: Any, *, name: str | None = None) -> Encoder:
    """Convert an image model of LazySlide to an encoder.

    :func:`deepspot.encoders.get` and all functions with an `encoder` parameter do this as well. Use this function to
    set a name, or to hash the weights only once.

    Parameters
    ----------
    model
        Object with the attributes of LazySlide's ``ImageModelProtocol``: `model`, `name`, `get_transform()`,
        `to(device)`, `try_compile()` and `encode_image(batch)`. It need not be a class of LazySlide. Tiles are
        preprocessed with the object's own transform; if that is None, `encode_image` gets batches of pixels
        (n, height, width, 3) in uint8.
    name
        Name of the encoder; by default `model.name`, which is the same for all timm models.

    Returns
    -------
    An encoder. Its card is inferred: the dimension from ``encode_dim`` or the embedding of a blank tile; input side,
    mean and std from the output of the transform; license, gating and source from the object.

    Its fingerprint is a hash of the weights, the transform and the code of `encode_image`. It does not cover other
    state of the object. If that can change, set an attribute `fingerprint`, which is hashed instead.

    Raises
    ------
    TypeError
        If the object lacks an attribute, or `encode_image` does not return an array.
    ValueError
        If `encode_image` does not return one vector per tile, or the weights cannot be hashed.

    Examples
    --------
    >>> import deepspot as ds
    >>> from types import SimpleNamespace
    >>> from torch import nn
    >>> own = SimpleNamespace(
    ...     model=nn.Identity(), name="mean_color", get_transform=lambda: None, to=lambda device: None,
    ...     try_compile=lambda: None, encode_image=lambda pixels: pixels.float().mean(dim=(1, 2)),
    ... )
    >>> ds.encoders.adapt(own).card.dim
    3
    >>> from lazyslide_models import TimmModel  # doctest: +SKIP
    >>> encoder = ds.encoders.adapt(TimmModel("resnet50"), name="resnet50")  # doctest: +SKIP
    """
    lacking = [part for part in NEEDS if not hasattr(model, part)]
    if lacking:
        raise InputTypeError(
            f"{type(model).__name__} is not an image model of LazySlide: it lacks {lacking}. Add these attributes, or "
            "wrap a torch module with `ds.encoders.register(card, load)`."
        )
    if not stated_fingerprint(model) and not hasattr(model.model, "state_dict"):
        raise InputError(
            f"The weights of {type(model).__name__} cannot be hashed, because its `model` is not a torch module. Set "
            "an attribute `fingerprint`: text that changes with everything its embeddings depend on."
        )
    transform = model.get_transform()
    license = getattr(model, "license", None) or "unknown"
    page = getattr(model, "hf_url", None) or ""
    encoder = ImageModelEncoder(
        model,
        EncoderCard(
            name=check_text(model.name if name is None else name, "name"),
            dim=1,  # replaced below
            license=license if isinstance(license, str) else ", ".join(map(str, license)),
            gated=bool(getattr(model, "is_gated", False)),
            source=page or getattr(model, "github_url", None) or "user",
            url=page,
            note=f"Adapted from {class_of(model)}, with its own preprocessing.",
            **inferred_preprocessing(transform),
        ),
        transform,
    )
    stated = getattr(model, "encode_dim", None)
    dim = stated if isinstance(stated, int) else _dimension(encoder)
    encoder.card = encoder.card.model_copy(update={"dim": dim})
    return encoder


class ImageModelEncoder:
    """Encoder made from an image model of LazySlide; see :func:`adapt`."""

    def __init__(self, model: Any, card: EncoderCard, transform: Callable[[np.ndarray], Any] | None) -> None:
        import torch

        self.model, self.card, self.transform = model, card, transform
        self.device = torch.device("cpu")
        if isinstance(model.model, torch.nn.Module):
            model.model.eval()
            self.device = next((weight.device for weight in model.model.parameters()), self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, or of the fingerprint of the object if it has one."""
        return digest(class_of(self.model), stated_fingerprint(self.model) or self._identity())

    def _identity(self) -> list[Any]:
        # A compiled module has other parameter names.
        structure, weights = describe_module(getattr(self.model.model, "_orig_mod", self.model.model))
        # Without a transform, an image processor of transformers in the object preprocesses the pixels.
        parts = [repr(part) for part in getattr(self.model, "__dict__", {}).values() if hasattr(part, "image_mean")]
        parts.append("" if self.transform is None else describe_code(self.transform))
        # Methods of the library are identified by their class; their source may change.
        method = inspect.unwrap(getattr(self.model.encode_image, "__func__", self.model.encode_image))
        of_library = (getattr(method, "__module__", None) or "").partition(".")[0] == LIBRARY
        parts += ["" if of_library else describe_source(method), structure]
        return [self.card.dim, [without_addresses(part) for part in parts], weights]

    def to(self, device: Any) -> ImageModelEncoder:
        """Move the encoder to a device (None selects one)."""
        self.device = choose_device(device)
        self.model.to(self.device)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        import torch
        from torch.utils.data import default_collate

        check_tiles(tiles)
        with torch.inference_mode():
            ready = list(tiles) if self.transform is None else [self.transform(tile) for tile in tiles]
            embedding = self.model.encode_image(default_collate(ready).to(self.device))
        if isinstance(embedding, torch.Tensor):
            return embedding.float().cpu().numpy()
        if isinstance(embedding, np.ndarray):
            return embedding.astype(np.float32)
        raise InputTypeError(
            f"`encode_image` of {self.card.name!r} returned a {type(embedding).__name__}; it must return an array "
            "(n, dim)."
        )


def _dimension(encoder: ImageModelEncoder) -> int:
    side = encoder.card.input_px
    embedding = encoder.encode(np.full((1, side, side, 3), 255, dtype=np.uint8))
    if embedding.ndim != 2 or len(embedding) != 1:
        raise InputError(
            f"`encode_image` of {encoder.card.name!r} returned an array of shape {embedding.shape} for one tile; it "
            "must be (1, dim). Pool the output to one vector per tile."
        )
    return embedding.shape[1]


def inferred_preprocessing(transform: Callable[[np.ndarray], Any] | None) -> dict[str, Any]:
    """Infer input side, mean and std from what a transform returns for a black and a white tile, if possible."""
    inferred: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if transform is None:
        return inferred
    tiles = [np.full((PROBE, PROBE, 3), value, dtype=np.uint8) for value in (0, 255)]
    black, white = (np.asarray(transform(tile), dtype=np.float64) for tile in tiles)
    if black.ndim != 3 or len(black) != 3:
        return inferred
    side = black.shape[-1]
    if side != PROBE:
        inferred["input_px"] = side
    black, white = (pixels[:, side // 2, side // 2] for pixels in (black, white))
    if (white > black).all():
        std = 1 / (white - black)
        inferred |= {"mean": tuple((-black * std).round(6)), "std": tuple(std.round(6))}
    return inferred


def class_of(model: Any) -> str:
    """Return module and name of the class of an object."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def stated_fingerprint(model: Any) -> str:
    """Return the attribute `fingerprint` of an object; empty if it has none."""
    own = getattr(model, "fingerprint", "")
    return own if isinstance(own, str) else ""


def from_lazyslide(name: str) -> Encoder:
    """Return the encoder of an image model in the registry of lazyslide-models, for example ``"lazyslide:gpfm"``.

    The model loads its own weights. No token is passed, because the library would store it; HF_TOKEN is used.
    """
    try:
        from lazyslide_models import MODEL_REGISTRY
    except ImportError as error:
        raise MissingPackageError(
            'Encoders named `lazyslide:...` need lazyslide-models. Install it with `pip install ".[zoo]"`.'
        ) from error
    images = sorted(key for key, model in MODEL_REGISTRY.items() if hasattr(model, "encode_image"))
    key = key_in(name.removeprefix(PREFIX), images, "lazyslide_models.MODEL_REGISTRY")
    model: Any = MODEL_REGISTRY[key]
    page = getattr(model, "hf_url", None) or getattr(model, "github_url", None) or ""
    card = EncoderCard(name=name, dim=1, license=str(model.license), url=page, remote_code=runs_code(key, model))
    if card.remote_code:
        raise refusal(card)
    with explain_hub_errors(hub_errors(card, page, page)):
        encoder = adapt(model(), name=name)
    log_license(card)
    return encoder


def runs_code(key: str, model: type[Any], reviewed: Collection[str] | None = None) -> str:
    """Return the reason why a class of lazyslide-models is not instantiated; empty if it is safe."""
    if key not in (READ if reviewed is None else reviewed):
        return "its class has not been reviewed, so its weights could run any code"
    for part in model.__mro__:
        if part.__module__.partition(".")[0] != LIBRARY:
            continue
        try:
            source = inspect.getsource(import_module(part.__module__))
        except OSError:
            return f"the source of {part.__module__} cannot be read, so it could run any code"
        unsafe = [word for word in RUNS_CODE if word in source]
        if unsafe:
            return f"{part.__module__} uses `{unsafe[0]}`, which runs code from a weights file"
    return ""
