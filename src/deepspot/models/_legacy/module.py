"""The network, its hyper-parameters and its scaler out of what a pickle describes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .archive import Archive
from .pickle import FORWARD, Name, Node, Stored, describe

NETWORK = "deepspot.spot.model.DeepSpot"
_LAYERS = "torch.nn.modules"
PHI = (f"{_LAYERS}.linear.Linear", f"{_LAYERS}.dropout.Dropout", f"{_LAYERS}.activation.ReLU")
RHO = (f"{_LAYERS}.dropout.Dropout", f"{_LAYERS}.activation.ReLU", PHI[0], f"{_LAYERS}.dropout.Dropout")

LONGEST, MOST_MEMBERS = 100, 100

Layer = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """What a published checkpoint holds.

    Attributes
    ----------
    settings
        Hyper-parameters, as the authors' class took them.
    phi, rho
        Weight and bias of every member of the two ensembles.
    mean, scale
        (genes,) of the scaler; None where the targets were not scaled.
    """

    settings: dict[str, Any]
    phi: list[Layer]
    rho: list[Layer]
    mean: np.ndarray | None
    scale: np.ndarray | None


def read_checkpoint(archive: Archive) -> Checkpoint:
    """Read a checkpoint of the published network.

    Raises
    ------
    ValueError
        If the file asks for anything else than such a network, or is built in another way.
    """
    file = str(archive.path)
    root = describe(archive.pickle, file)
    if not isinstance(root, Node) or root.of != NETWORK:
        found = root.of if isinstance(root, Node) else type(root).__name__
        raise ValueError(
            f"{file} holds a {found}, not the network itself, which the authors save as `final_model.pkl`. Pass that."
        )
    settings = _plain(_items(_items(root.state, file).get("_hparams"), file))
    context = settings.get("spot_context")
    match _items(root.state, file).get("_forward_fn"):
        case Node(of="builtins.getattr", args=(_, str(forward))) if forward != f"{FORWARD}{context}":
            raise ValueError(f"{file} contradicts itself about the context: {context!r} or {forward[:LONGEST]!r}.")
    scaler = _items(root.state, file).get("scaler")
    return Checkpoint(
        settings,
        _ensemble(root, "phi_spot", "Phi", PHI, archive),
        _ensemble(root, "rho", "Rho", RHO, archive),
        *((None, None) if scaler is None else _scaler(scaler, file)),
    )


def _plain(settings: dict[Any, Any]) -> dict[str, Any]:
    """Hyper-parameters that can be shown and compared: to write out a tuple of tuples of … may never end."""
    return {
        key: value
        for key, value in settings.items()
        if isinstance(key, str)
        and (value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST))
    }


def _ensemble(root: Node, name: str, of: str, layers: tuple[str, ...], archive: Archive) -> list[Layer]:
    file = str(archive.path)
    members = _modules(_child(root, name, f"{_LAYERS}.container.ModuleList", file), file)
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"{file} has an ensemble of {len(members):,}; the published network has 10. Get a new copy.")
    found = []
    for member in members.values():
        if not isinstance(member, Node) or member.of != f"deepspot.spot.model.{of}":
            raise ValueError(f"{file} is built otherwise than the published network: {name!r} holds no {of}.")
        parts = list(_modules(_child(member, "model", f"{_LAYERS}.container.Sequential", file), file).values())
        if tuple(part.of if isinstance(part, Node) else "" for part in parts) != layers:
            raise ValueError(f"{file} is built otherwise than the published network: {of} has other layers.")
        parameters = _items(_items(parts[layers.index(PHI[0])].state, file).get("_parameters"), file)
        found.append((tensor(parameters.get("weight"), archive), tensor(parameters.get("bias"), archive)))
    return found


def _child(node: Node, name: str, of: str, file: str) -> Node:
    child = _modules(node, file).get(name)
    if not isinstance(child, Node) or child.of != of:
        raise ValueError(f"{file} is built otherwise than the published network: {name!r} is no {of}.")
    return child


def _modules(node: Node, file: str) -> dict[Any, Any]:
    return _items(_items(node.state, file).get("_modules"), file)


def _items(node: Any, file: str) -> dict[Any, Any]:
    """Keys and values of a dictionary, or of what would be one."""
    found = node.items if isinstance(node, Node) else node
    if not isinstance(found, dict):
        raise ValueError(f"{file} is built otherwise than the published network: a part of it is missing.")
    return found


def _scaler(node: Any, file: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    state = _items(node.state if isinstance(node, Node) else None, file)
    mean = array(state.get("mean_"), file) if state.get("with_mean") is True else None
    scale = array(state.get("scale_"), file) if state.get("with_std") is True else None
    return mean, scale


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
