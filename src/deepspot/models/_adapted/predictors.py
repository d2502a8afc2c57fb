"""Objects with LazySlide's prediction protocols, and functions of tiles: how they are called and identified."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from deepspot._core.compute import choose_device
from deepspot._core.hashing import digest
from deepspot.encoders import EncoderCard
from deepspot.encoders._card import check_tiles
from deepspot.encoders._fingerprint import (
    describe_code,
    describe_module,
    describe_plain,
    describe_source,
    is_plain,
    without_addresses,
)
from deepspot.encoders._lazyslide import class_of, stated_fingerprint
from deepspot.errors import InputError, InputTypeError

# Spots on which a predictor of features is tried, to learn its genes.
TRIED = 2


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a predictor without gradients."""
    import torch

    with torch.inference_mode():
        return function(*args)


def to_matrix(output: Any, genes: Sequence[str] | None, n: int, name: str) -> tuple[np.ndarray, list[str]]:
    """Return the output of a predictor for n spots as float32 (n, genes), and its names; raise if it does not fit.

    `output` is a mapping from names to arrays (n,) or (n, 1), or an array (n, genes) in the order of `genes`. With None
    all names are taken.
    """
    if isinstance(output, Mapping):
        names = [str(key) for key in output]
        if not names or len(set(names)) < len(names):
            raise InputError(f"{name} must return a mapping from different names to arrays, got {names}.")
        columns = dict(zip(names, map(_array, output.values()), strict=True))
        wanted = names if genes is None else list(genes)
        if missing := [gene for gene in wanted if gene not in columns]:
            raise InputError(f"{name} returned no values of {len(missing)} of its genes, first {missing[0]!r}.")
        for gene in wanted:
            if columns[gene].shape not in ((n,), (n, 1)):
                raise InputError(
                    f"{name} returned an array of shape {columns[gene].shape} for gene {gene!r} and {n} spots; it must "
                    f"be ({n},) or ({n}, 1)."
                )
        matrix = np.column_stack([columns[gene].reshape(n) for gene in wanted]).astype(np.float32)
    else:
        matrix = _array(output)
        wanted = [] if genes is None else list(genes)
        if genes is None:
            raise InputError(f"{name} returns an array without names. Pass the names of its columns as `genes=`.")
        if matrix.shape != (n, len(wanted)):
            raise InputError(f"{name} returned an array of shape {matrix.shape}; it must be {(n, len(wanted))}.")
        matrix = matrix.astype(np.float32)
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} returned values that are not finite. Check its weights and input.")
    return matrix, wanted


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InputTypeError(f"A predictor must return numbers, got {array.dtype}.")
    return array


def move(predictor: Any, device: Any) -> None:
    """Move a predictor to a device, if it can be moved."""
    if hasattr(predictor, "to"):
        with suppress(AttributeError, TypeError):  # as LazySlide does
            predictor.to(device=choose_device(device))


def identity(predictor: Any) -> str:
    """Return a hash of what a predictor computes: of its own `fingerprint` if it has one, else of code and weights.

    Raises InputError for an object whose weights are unknown.
    """
    if stated := stated_fingerprint(predictor):
        return digest(class_of(predictor), stated)
    if inspect.isfunction(predictor):
        return digest(without_addresses(describe_source(predictor, strict=True)))
    module = getattr(predictor, "model", predictor)
    if not hasattr(module, "state_dict"):
        raise InputError(
            f"What {class_of(predictor)} computes cannot be hashed, because it has no torch module as `model`. Set an "
            "attribute `fingerprint`: text that changes with everything that its predictions depend on."
        )
    own = {key: value for key, value in getattr(predictor, "__dict__", {}).items() if key[0] != "_" and key != "device"}
    settings = [[key, describe_plain(value)] for key, value in sorted(own.items()) if is_plain(value)]
    method = getattr(predictor, "predict", None) or type(predictor).forward
    transform = getattr(predictor, "get_transform", lambda: None)()
    code = [describe_source(method), "" if transform is None else describe_code(transform)]
    # A compiled module has other parameter names.
    weights = describe_module(getattr(module, "_orig_mod", module))
    return digest(class_of(predictor), [without_addresses(text) for text in code], settings, weights)


class TilePrediction:
    """Predictor of tiles as an encoder, whose embedding of a tile are its predicted genes.

    So tiles are read, batched, cached and reused as those of any encoder.
    """

    def __init__(
        self, predictor: Any, card: EncoderCard, genes: list[str], transform: Callable[[np.ndarray], Any] | None
    ) -> None:
        self.predictor, self.card, self.genes, self.transform = predictor, card, genes, transform
        self.fingerprint = digest(identity(predictor), card.input_px, genes)
        self.device: Any = None

    def to(self, device: Any) -> TilePrediction:
        """Move the predictor to a device (None selects one)."""
        self.device = device
        move(self.predictor, device)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Predict the genes of RGB tiles (n, height, width, 3) in uint8 as float32 (n, genes)."""
        check_tiles(tiles)
        output = call_on_tiles(self.predictor, tiles, self.transform, self.card.input_px, self.device)
        return to_matrix(output, self.genes, len(tiles), self.card.name)[0]


def call_on_tiles(
    predictor: Any, tiles: np.ndarray, transform: Callable[[np.ndarray], Any] | None, side: int, device: Any = None
) -> Any:
    """Call a predictor of LazySlide on transformed tiles, or a function on tiles (n, side, side, 3) in uint8."""
    from torch.utils.data import default_collate

    if not hasattr(predictor, "predict"):
        return call(predictor, resize(tiles, side))
    ready = list(tiles) if transform is None else [transform(tile) for tile in tiles]
    return call(predictor.predict, default_collate(ready).to(choose_device(device)))


def resize(tiles: np.ndarray, side: int) -> np.ndarray:
    """Resize tiles (n, height, width, 3) in uint8 with antialiasing."""
    import torch
    from torch.nn import functional as F

    if tiles.shape[1:3] == (side, side):
        return tiles
    batch = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float()
    small = F.interpolate(batch, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return small.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()


def genes_of_features(predictor: Any, dim: int, *, coords: bool, name: str) -> list[str]:
    """Return the genes of a predictor of features, which is tried on features that are 0."""
    features = np.zeros((TRIED, dim), dtype=np.float32)
    places = [np.array([[0.0, 0.0], [100.0, 100.0]])] if coords else []
    return to_matrix(call(predictor.predict, features, *places), None, TRIED, name)[1]


def genes_of_tiles(predictor: Any, transform: Callable[[np.ndarray], Any] | None, side: int, name: str) -> list[str]:
    """Return the genes of a predictor of tiles, which is tried on a white tile."""
    white = np.full((1, side, side, 3), 255, dtype=np.uint8)
    return to_matrix(call_on_tiles(predictor, white, transform, side, "cpu"), None, 1, name)[1]


def predict_features(
    predictor: Any, features: np.ndarray, origins: np.ndarray | None, genes: list[str], name: str
) -> np.ndarray:
    """Predict the genes (n, genes) of features (n, d), with the origins (n, 2) of their tiles if it needs them."""
    # LazySlide passes coordinates by position, and only to predictors that need them.
    given = (features,) if origins is None else (features, origins)
    return to_matrix(call(predictor.predict, *given), genes, len(features), name)[0]
