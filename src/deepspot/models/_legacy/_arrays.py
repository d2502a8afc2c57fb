"""Tensors, arrays and numbers out of what a pickle describes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._archive import Archive
from ._pickle import Name, Node, Stored

_STORAGES = {"torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2"}
_NUMPY = ("f2", "f4", "f8", "i4", "i8")


def tensor(node: Any, archive: Archive) -> np.ndarray:
    """A parameter of the network in float32."""
    match node:
        case Node(of="torch._utils._rebuild_parameter", args=(inner, *_)):
            node = inner
    match node:
        case Node(
            of="torch._utils._rebuild_tensor_v2",
            args=(
                Stored(args=("storage", Name(full=kind), str(key), _, int(count))),
                0,
                tuple(shape),
                tuple(stride),
                *_,
            ),
        ) if kind in _STORAGES and len(shape) in (1, 2) and all(type(side) is int and side > 0 for side in shape):
            dtype = np.dtype(_STORAGES[kind])
            size = math.prod(shape)
            along = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            if count == size and along == list(stride):
                values = np.frombuffer(archive.storage(key, size * dtype.itemsize), dtype).reshape(shape)
                with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused later
                    return values.astype(np.float32)
    raise ValueError(f"{archive.path} holds a tensor of a kind that the published network does not have.")


def array(node: Any, file: str) -> np.ndarray:
    """A vector of numpy in float64."""
    match node:
        case Node(
            of="numpy.core.multiarray._reconstruct",
            args=(Name(full="numpy.ndarray"), *_),
            state=(1, (int(length),), dtype, False, data),
        ):
            raw, kind = _bytes(data, file), _dtype(dtype, file)
            if len(raw) == length * kind.itemsize:
                return np.frombuffer(raw, kind).astype(np.float64)
    raise ValueError(f"{file} holds an array of a kind that a scaler does not have.")


def _dtype(node: Any, file: str) -> np.dtype:
    match node:
        case Node(of="numpy.dtype", args=(str(code), *_), state=(3, "<", None, None, None, *_)) if code in _NUMPY:
            return np.dtype(f"<{code}")
    raise ValueError(f"{file} holds an array of other than plain numbers.")


def _bytes(node: Any, file: str) -> bytes:
    match node:
        case Node(of="_codecs.encode", args=(str(text), "latin1")):
            try:
                return text.encode("latin1")
            except UnicodeEncodeError as error:
                raise ValueError(f"{file} holds bytes that are none ({error}). Get a new copy.") from error
    raise ValueError(f"{file} holds an array without its bytes.")
