"""Read a published checkpoint: a zip archive of a pickle and the bytes of each tensor, as `torch.save` writes it."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepspot.errors import InputError

from .pickle_reader import CELLS, FORWARD, NETWORK, Node, Refused, describe

PICKLE = "data.pkl"
# The pickle of a network takes about 100 KB, that of a scaler of 20,000 genes about 1 MB.
LARGEST_PICKLE = 8_000_000
LONGEST_TEXT, MOST_MEMBERS = 100, 100
# Errors of `zipfile` on damaged files.
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError)
STORAGES = {"torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2"}
NUMBERS = ("f2", "f4", "f8", "i4", "i8")
LINEAR, DROPOUT, RELU = (f"torch.nn.modules.{name}" for name in ("linear.Linear", "dropout.Dropout", "activation.ReLU"))
MISSING = "differs from the published network: a part of it is missing."
PHI, RHO = [LINEAR, DROPOUT, RELU], [DROPOUT, RELU, LINEAR, DROPOUT]

Layer = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint: hyper-parameters, weight and bias of each member of both ensembles, and scaler.

    `cells` is whether it is a DeepCell, and not a DeepSpot.
    """

    cells: bool
    settings: dict[str, Any]
    phi: list[Layer]  # in float32
    rho: list[Layer]
    mean: np.ndarray | None  # (genes,) in float64; None if the targets were not scaled
    scale: np.ndarray | None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of the published network.

    Raises
    ------
    ValueError
        If the file is damaged, names anything else than such a network, or has another structure.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _network(_Archive(file, path.stat().st_size))
    except Refused as refused:
        raise InputError(f"{path} {refused}") from refused.__cause__
    except UNREADABLE as error:
        raise InputError(
            f"{path} is not a readable checkpoint ({error}). It is truncated or from PyTorch before 1.6. Get a new "
            "copy."
        ) from error


class _Archive:
    """Entries of a checkpoint. In total, never more bytes are read than the size of the file."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        self._file, self._left = file, size
        entries = file.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith(f"/{PICKLE}")]
        if len(self._entries) < len(entries) or len(pickles) != 1:
            raise Refused(
                f"is not a PyTorch checkpoint: it must contain one folder with one {PICKLE}. Unzip a download of "
                "several models first, and pass the folder of one of them."
            )
        self._root = pickles[0].removesuffix(PICKLE)
        if f"{self._root}byteorder" in self._entries and self.read("byteorder", 16) != b"little":
            raise Refused("has big-endian byte order, which is not supported.")

    def read(self, name: str, limit: int) -> bytes:
        """Read an entry of at most `limit` bytes."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise Refused(f"is incomplete: {self._root + name!r} is missing. Get a new copy.")
        # PyTorch does not compress. A compressed entry could be a zip bomb.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > min(limit, self._left):
            raise Refused(f"contains {name!r} compressed or of a size that PyTorch does not write. Get a new copy.")
        self._left -= entry.file_size
        try:
            with self._file.open(entry) as file:
                return file.read(limit)
        except UNREADABLE as error:
            raise Refused(f"cannot be read at {name!r} ({error}). Get a new copy.") from error


def _network(archive: _Archive) -> Checkpoint:
    root = describe(archive.read(PICKLE, LARGEST_PICKLE))
    if not isinstance(root, Node) or root.of not in (NETWORK, CELLS):
        kind = root.of if isinstance(root, Node) else type(root).__name__
        raise Refused(
            f"contains a {kind}, not the network, which the authors save as `final_model.pkl`. Pass that file."
        )
    try:
        state = _items(root.state)
        settings = _plain(_items(state["_hparams"]))
        cells = root.of == CELLS
        context = settings.get("cell_context" if cells else "spot_context")
        match state.get("_forward_fn"):
            case Node(of="builtins.getattr", args=(_, str(forward))) if forward != f"{FORWARD}{context}":
                raise Refused(
                    f"is inconsistent about the context: {context!r} or {forward[:LONGEST_TEXT]!r}. Get a new copy."
                )
        phi = _ensemble(root, "phi_cell" if cells else "phi_spot", "Phi", PHI, archive)
        rho = _ensemble(root, "rho", "Rho", RHO, archive)
        scaler = state.get("scaler")
        values = {} if scaler is None else _items(scaler.state)
        mean = _array(values["mean_"]) if values.get("with_mean") is True else None
        scale = _array(values["scale_"]) if values.get("with_std") is True else None
    except (AttributeError, KeyError) as error:
        raise Refused(MISSING) from error
    return Checkpoint(cells, settings, phi, rho, mean, scale)


def _items(node: Any) -> dict[str, Any]:
    """Return a dictionary, or the items of a node that describes one."""
    items = node.items if isinstance(node, Node) else node
    if not isinstance(items, dict):
        raise Refused(MISSING)
    return items


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep numbers and short texts only, because the repr of nested tuples may never end."""
    return {
        key: value
        for key, value in settings.items()
        if value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST_TEXT)
    }


def _ensemble(root: Node, name: str, of: str, layers: list[str], archive: _Archive) -> list[Layer]:
    """Return weight and bias of all members; raise if their layers differ from the published ones."""
    members = _parts(_parts(root, root.of)[name], "torch.nn.modules.container.ModuleList")
    if len(members) > MOST_MEMBERS:
        raise Refused(f"has an ensemble of {len(members):,}; the published network has 10. Get a new copy.")
    ensemble = []
    for member in members.values():
        model = _parts(member, f"{root.of.rpartition('.')[0]}.{of}")["model"]
        parts = list(_parts(model, "torch.nn.modules.container.Sequential").values())
        if [part.of for part in parts] != layers:
            raise Refused(f"differs from the published network: {of} has other layers.")
        parameters = _items(_items(parts[layers.index(LINEAR)].state)["_parameters"])
        ensemble.append((_tensor(parameters["weight"], archive), _tensor(parameters["bias"], archive)))
    return ensemble


def _parts(node: Any, of: str) -> dict[str, Any]:
    """Return the submodules of a module; raise if it has another class."""
    if node.of != of:
        raise Refused(f"differs from the published network: it has a {node.of} in place of a {of}.")
    return _items(_items(node.state)["_modules"])


def _tensor(node: Any, archive: _Archive) -> np.ndarray:
    """Read a parameter of the network as float32."""
    match node:
        case Node(of="torch._utils._rebuild_parameter", args=(inner, *_)):
            node = inner
    match node:
        case Node(
            of="torch._utils._rebuild_tensor_v2",
            args=(
                Node(args=("storage", Node(of=kind, args=None), str(key), _, int(count))),
                0,
                tuple(shape),
                tuple(stride),
                *_,
            ),
        ) if (
            kind in STORAGES
            and len(shape) in (1, 2)
            and all(type(side) is int and side > 0 for side in shape)
            and list(stride) == [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            and count == math.prod(shape)
        ):
            dtype = np.dtype(STORAGES[kind])
            data = archive.read(f"data/{key}", count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise Refused(f"contains {len(data)} bytes for a tensor of {count * dtype.itemsize}. Get a new copy.")
            with np.errstate(over="ignore"):  # overflow becomes infinite, which is refused later
                return np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    raise Refused("contains a tensor of a kind that the published network does not have.")


def _array(node: Any) -> np.ndarray:
    """Read a numpy vector as float64."""
    match node:
        case Node(
            of="numpy.core.multiarray._reconstruct",
            args=(Node(of="numpy.ndarray", args=None), *_),
            state=(
                1,
                (int(length),),
                Node(of="numpy.dtype", args=(str(code), *_), state=(3, "<", None, None, None, *_)),
                False,
                Node(of="_codecs.encode", args=(str(text), "latin1")),
            ),
        ) if code in NUMBERS:
            dtype = np.dtype(f"<{code}")
            # Characters beyond Latin-1 are damage; without them the length does not match.
            data = text.encode("latin1", "ignore")
            if len(data) == length * dtype.itemsize:
                return np.frombuffer(data, dtype).astype(np.float64)
    raise Refused("contains an array of a kind that a scaler does not have.")
