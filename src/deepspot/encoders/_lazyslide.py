"""Image models of LazySlide, and objects that do as they do, as encoders."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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

# LazySlide's ImageModelProtocol. It is looked up by name, as users may have a class of their own and no LazySlide.
NEEDS = ("model", "name", "get_transform", "to", "try_compile", "encode_image")
# Side of the tiles that a transform is tried on: what comes out with this side was not resized.
PROBE = 301

LIBRARY, PREFIX = "lazyslide_models", "lazyslide:"
# What runs code that comes with weights, should a later version of these do so.
RUNS_CODE = ("trust_remote_code", "torch.hub", "weights_only=False", '"weights_only"', ".jit", "torch.export", "pickle")


def adapt(model: Any, *, name: str | None = None) -> Encoder:
    """Make an encoder of an image model of LazySlide.

    :func:`deepspot.encoders.get` does so too, and with it every function that takes an encoder. Call this one to give
    it a name, or to have its weights hashed only once.

    Parameters
    ----------
    model
        An object with `model`, `name`, `get_transform()`, `to(device)`, `try_compile()` and `encode_image(batch)`, as
        LazySlide's ``ImageModelProtocol`` says; it need not be a class of LazySlide. A tile goes through the object's
        own transform; if that is None, the object is given batches of pixels (n, height, width, 3) in uint8.
    name
        Name of the encoder; by default the object's own, which is the same for all models that timm makes.

    Returns
    -------
    An encoder. Its card says what could be found out: the dimension from ``encode_dim`` or from a blank tile; input
    side, mean and std from what the transform makes of one; license, gating and source from the object.

    Its fingerprint is a hash of the weights, the transform and the code of `encode_image`. What else the object
    computes with is not seen: if that can change, give the object a `fingerprint`, which is hashed in place of all
    this.

    Raises
    ------
    TypeError
        If the object lacks something, or `encode_image` gives no array.
    ValueError
        If `encode_image` does not give one vector for a tile, or the weights cannot be hashed.

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
            f"{type(model).__name__} is no image model as LazySlide has them: it lacks {lacking}. Add what is missing, "
            "or wrap a torch module with `ds.encoders.register(card, load)`."
        )
    if not _stated(model) and not hasattr(model.model, "state_dict"):
        raise InputError(
            f"The weights of {type(model).__name__} cannot be hashed, as its `model` is no torch module. Give the "
            "object a `fingerprint`: text that changes with all that its embeddings depend on."
        )
    transform = model.get_transform()
    license = getattr(model, "license", None) or "unknown"
    page = getattr(model, "hf_url", None) or ""
    encoder = ImageModelEncoder(
        model,
        EncoderCard(
            name=check_text(model.name if name is None else name, "name"),
            dim=1,  # until a tile was embedded
            license=license if isinstance(license, str) else ", ".join(map(str, license)),
            gated=bool(getattr(model, "is_gated", False)),
            source=page or getattr(model, "github_url", None) or "user",
            url=page,
            note=f"Adapted from {_class_of(model)}, with its own preprocessing.",
            **_preprocessing(transform),
        ),
        transform,
    )
    stated = getattr(model, "encode_dim", None)
    dim = stated if isinstance(stated, int) else _dimension(encoder)
    encoder.card = encoder.card.model_copy(update={"dim": dim})
    return encoder


class ImageModelEncoder:
    """An encoder made of an image model of LazySlide; see :func:`adapt`."""

    def __init__(self, model: Any, card: EncoderCard, transform: Callable[[np.ndarray], Any] | None) -> None:
        import torch

        self.model, self.card, self.transform = model, card, transform
        self.device = torch.device("cpu")
        if isinstance(model.model, torch.nn.Module):
            model.model.eval()
            self.device = next((weight.device for weight in model.model.parameters()), self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of weights and preprocessing, or of the fingerprint that the object states."""
        return digest(_class_of(self.model), _stated(self.model) or self._identity())

    def _identity(self) -> list[Any]:
        # A compiled module computes the same, under other names.
        structure, weights = describe_module(getattr(self.model.model, "_orig_mod", self.model.model))
        # Without a transform it is a processor of transformers, kept by the object, that prepares the pixels.
        parts = [repr(part) for part in getattr(self.model, "__dict__", {}).values() if hasattr(part, "image_mean")]
        parts.append("" if self.transform is None else describe_code(self.transform))
        # Methods of the library are known by their class, and may change in form.
        method = inspect.unwrap(getattr(self.model.encode_image, "__func__", self.model.encode_image))
        of_library = (getattr(method, "__module__", None) or "").partition(".")[0] == LIBRARY
        parts += ["" if of_library else describe_source(method), structure]
        return [self.card.dim, [without_addresses(part) for part in parts], weights]

    def to(self, device: Any) -> ImageModelEncoder:
        """Move to a device (None chooses one)."""
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
            f"`encode_image` of {self.card.name!r} gave a {type(embedding).__name__}, it must give an array (n, dim)."
        )


def _dimension(encoder: ImageModelEncoder) -> int:
    side = encoder.card.input_px
    embedding = encoder.encode(np.full((1, side, side, 3), 255, dtype=np.uint8))
    if embedding.ndim != 2 or len(embedding) != 1:
        raise InputError(
            f"`encode_image` of {encoder.card.name!r} gave an array of shape {embedding.shape} for one tile, it must "
            "be (1, dim). Pool what it gives to one vector for each tile."
        )
    return embedding.shape[1]


def _preprocessing(transform: Callable[[np.ndarray], Any] | None) -> dict[str, Any]:
    """Input side, mean and std, from what a transform makes of black and of white; as far as it can be told."""
    known: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if transform is None:
        return known
    tiles = [np.full((PROBE, PROBE, 3), value, dtype=np.uint8) for value in (0, 255)]
    black, white = (np.asarray(transform(tile), dtype=np.float64) for tile in tiles)
    if black.ndim != 3 or len(black) != 3:
        return known
    side = black.shape[-1]
    if side != PROBE:
        known["input_px"] = side
    black, white = (pixels[:, side // 2, side // 2] for pixels in (black, white))
    if (white > black).all():
        std = 1 / (white - black)
        known |= {"mean": tuple((-black * std).round(6)), "std": tuple(std.round(6))}
    return known


def _class_of(model: Any) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _stated(model: Any) -> str:
    own = getattr(model, "fingerprint", "")
    return own if isinstance(own, str) else ""


def from_lazyslide(name: str) -> Encoder:
    """Encoder of an image model of the registry of lazyslide-models, for example ``"lazyslide:gpfm"``.

    It loads its own weights. No token is handed over: what takes one logs the user in for good. HF_TOKEN is found.
    """
    try:
        from lazyslide_models import MODEL_REGISTRY
    except ImportError as error:
        raise MissingPackageError(
            'Encoders named `lazyslide:...` need lazyslide-models. Install it with `pip install "deepspot[zoo]"`.'
        ) from error
    images = sorted(key for key, model in MODEL_REGISTRY.items() if hasattr(model, "encode_image"))
    key = key_in(name.removeprefix(PREFIX), images, "lazyslide_models.MODEL_REGISTRY")
    model: Any = MODEL_REGISTRY[key]
    page = getattr(model, "hf_url", None) or getattr(model, "github_url", None) or ""
    card = EncoderCard(name=name, dim=1, license=str(model.license), url=page, remote_code=runs_code(key, model))
    if card.remote_code:
        raise refusal(card)
    with explain_hub_errors(hub_errors(card, page, page)):
        made = adapt(model(), name=name)
    log_license(card)
    return made


def runs_code(key: str, model: type[Any]) -> str:
    """Why a class of lazyslide-models is not instantiated; empty if it may be."""
    if key not in READ:
        return "its class is not one of those whose source was read, so that nobody knows what its weights run"
    for part in model.__mro__:
        if part.__module__.partition(".")[0] != LIBRARY:
            continue
        try:
            source = inspect.getsource(import_module(part.__module__))
        except OSError:
            return f"the source of {part.__module__} cannot be read, so that nobody knows what it runs"
        unsafe = [word for word in RUNS_CODE if word in source]
        if unsafe:
            return f"{part.__module__} uses `{unsafe[0]}`, which runs code that comes with weights"
    return ""
