"""Image models of LazySlide, and objects that do as they do, as encoders."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from functools import cached_property
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.device import choose_device
from deepspot._core.hashing import digest
from deepspot._core.validate import check_text

from ._card import EncoderCard

if TYPE_CHECKING:
    from ._protocol import Encoder

# LazySlide's ImageModelProtocol. It is looked up by name, as users may have a class of their own and no LazySlide.
NEEDS = ("model", "name", "get_transform", "to", "try_compile", "encode_image")
LIBRARY = "lazyslide_models"
# Side of the tiles that a transform is tried on: what comes out with this side was not resized.
PROBE = 301


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
    side, mean and std from what the transform makes of one; licence, gating and source from the object.

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
    ...     model=nn.Identity(), name="mean_colour", get_transform=lambda: None, to=lambda device: None,
    ...     try_compile=lambda: None, encode_image=lambda pixels: pixels.float().mean(dim=(1, 2)),
    ... )
    >>> ds.encoders.adapt(own).card.dim
    3
    >>> from lazyslide_models import TimmModel  # doctest: +SKIP
    >>> encoder = ds.encoders.adapt(TimmModel("resnet50"), name="resnet50")  # doctest: +SKIP
    """
    lacking = [part for part in NEEDS if not hasattr(model, part)]
    if lacking:
        raise TypeError(
            f"{type(model).__name__} is no image model as LazySlide has them: it lacks {lacking}. Add what is missing, "
            "or wrap a torch module with `ds.encoders.register(card, load)`."
        )
    if not _stated(model) and not hasattr(model.model, "state_dict"):
        raise ValueError(
            f"The weights of {type(model).__name__} cannot be hashed, as its `model` is no torch module. Give the "
            "object a `fingerprint`: text that changes with all that its embeddings depend on."
        )
    transform = model.get_transform()
    called = check_text(model.name if name is None else name, "name")
    dim = getattr(model, "encode_dim", None)
    card = EncoderCard(
        name=called, dim=dim if isinstance(dim, int) else 1, **_preprocessing(transform), **_terms(model)
    )
    encoder = ImageModelEncoder(model, card, transform)
    if not isinstance(dim, int):
        encoder.card = card.model_copy(update={"dim": _dimension(encoder)})
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
        kind = f"{type(self.model).__module__}.{type(self.model).__qualname__}"
        return digest(kind, _stated(self.model) or [self.card.dim, *_identity(self.model, self.transform)])

    def to(self, device: Any) -> ImageModelEncoder:
        """Move to a device (None chooses one)."""
        self.device = choose_device(device)
        self.model.to(self.device)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Embed RGB tiles (n, height, width, 3) in uint8 as float32 (n, dim)."""
        import torch
        from torch.utils.data import default_collate

        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[-1] != 3:
            raise ValueError(f"`tiles` must be uint8 of shape (n, height, width, 3), got {tiles.dtype} {tiles.shape}.")
        with torch.inference_mode():
            ready = list(tiles) if self.transform is None else [self.transform(tile) for tile in tiles]
            embedding = self.model.encode_image(default_collate(ready).to(self.device))
        if isinstance(embedding, torch.Tensor):
            return embedding.float().cpu().numpy()
        if isinstance(embedding, np.ndarray):
            return embedding.astype(np.float32)
        raise TypeError(
            f"`encode_image` of {self.card.name!r} gave a {type(embedding).__name__}, it must give an array (n, dim)."
        )


def _dimension(encoder: ImageModelEncoder) -> int:
    side = encoder.card.input_px
    embedding = encoder.encode(np.full((1, side, side, 3), 255, dtype=np.uint8))
    if embedding.ndim != 2 or len(embedding) != 1:
        raise ValueError(
            f"`encode_image` of {encoder.card.name!r} gave an array of shape {embedding.shape} for one tile, it must "
            "be (1, dim). Pool what it gives to one vector for each tile."
        )
    return embedding.shape[1]


def _preprocessing(transform: Callable[[np.ndarray], Any] | None) -> dict[str, Any]:
    """Input side, mean and std, from what a transform makes of black and of white; as far as it can be told."""
    plain: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if transform is None:
        return plain
    tiles = [np.full((PROBE, PROBE, 3), value, dtype=np.uint8) for value in (0, 255)]
    black, white = (np.asarray(transform(tile), dtype=np.float64) for tile in tiles)
    if black.ndim != 3 or len(black) != 3:
        return plain
    side = black.shape[-1]
    known = plain if side == PROBE else plain | {"input_px": side}
    black, white = (pixels[:, side // 2, side // 2] for pixels in (black, white))
    if (white <= black).any():
        return known
    std = 1 / (white - black)
    return known | {"mean": tuple((-black * std).round(6)), "std": tuple(std.round(6))}


def _terms(model: Any) -> dict[str, Any]:
    """What an object of LazySlide's registry says of its weights."""
    licence = getattr(model, "license", None) or "unknown"
    return {
        "licence": licence if isinstance(licence, str) else ", ".join(map(str, licence)),
        "gated": bool(getattr(model, "is_gated", False)),
        "source": getattr(model, "hf_url", None) or getattr(model, "github_url", None) or "user",
        "url": getattr(model, "hf_url", None) or "",
        "note": f"Adapted from {type(model).__module__}.{type(model).__qualname__}, with its own preprocessing.",
    }


def _stated(model: Any) -> str:
    own = getattr(model, "fingerprint", "")
    return own if isinstance(own, str) else ""


def _identity(model: Any, transform: Any) -> list[Any]:
    from ._torch import _code, _describe

    # A compiled module computes the same, under other names.
    structure, weights = _describe(getattr(model.model, "_orig_mod", model.model))
    # Without a transform it is a processor of transformers, kept by the object, that prepares the pixels.
    processors = [repr(part) for part in getattr(model, "__dict__", {}).values() if hasattr(part, "image_mean")]
    recipe = [*processors, "" if transform is None else _code(transform), _source(model.encode_image), structure]
    return [[re.sub(r" at 0x[0-9a-f]+", "", part) for part in recipe], weights]


def _source(method: Any) -> str:
    """What a method does. Those of the library are known by their class, and may change in form."""
    from ._torch import _code

    function = inspect.unwrap(getattr(method, "__func__", method))
    if (getattr(function, "__module__", None) or "").partition(".")[0] == LIBRARY:
        return ""
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":  # of which one line may hold several
        return _code(function)
    try:
        source = ast.unparse(ast.parse(dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed into an interpreter
        return _code(function)
    return f"{source} {[repr(cell.cell_contents) for cell in function.__closure__ or ()]}"
