"""A pickle is read as a description. Its instructions are not carried out: what it would call becomes a node."""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

MARK = object()
FORWARD = "_forward_"
# One opcode for the construction of each plain value; anything else in a pickle is refused by name.
_PLAIN = {"BININT", "BININT1", "BININT2", "BINUNICODE", "BINFLOAT", "LONG1"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """Something that the pickle names; all of them are in `ALLOWED`."""

    full: str


@dataclass(eq=False)
class Node:
    """What would be an object or the result of a call.

    Attributes
    ----------
    of
        The class or function.
    args
        Its arguments.
    state
        What its ``__setstate__`` would get.
    items
        What would be set by key.
    """

    of: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """Arguments of a tensor's storage, which lies beside the pickle."""

    args: tuple[Any, ...]


def describe(data: bytes, file: str) -> Any:
    """Turn a pickle into plain containers and nodes.

    Parameters
    ----------
    data
        The pickle, of protocol 2, as `torch.save` writes it.
    file
        Name for messages.

    Raises
    ------
    ValueError
        If the pickle is damaged, or names anything that is not in `ALLOWED`.
    """
    machine = _Machine(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about text in instructions that are refused anyway
            for opcode, argument, _ in pickletools.genops(data):
                machine.step(opcode.name, argument)
        return machine.result()
    except _Refused as error:
        raise ValueError(f"{file} {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{file} holds no readable pickle ({error}). Get a new copy.") from error


class _Refused(Exception):
    """The pickle can be read, and is not wanted."""


class _Machine:
    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self.stack
        return value

    def step(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        if name in _PLAIN:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _TUPLES:
            push(self._last(_TUPLES[name]))
        elif name == "EMPTY_LIST":
            push([])
        elif name == "EMPTY_DICT":
            push({})
        elif name == "MARK":
            push(MARK)
        elif name == "TUPLE":
            push(tuple(self._to_mark()))
        elif name == "APPEND":
            value = pop()
            self._list().append(value)
        elif name == "APPENDS":
            values = self._to_mark()
            self._list().extend(values)
        elif name == "SETITEM":
            value, key = pop(), pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._to_mark())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "GLOBAL":
            push(_name(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            args, of = pop(), pop()
            push(_node(of, args, "class" if name == "NEWOBJ" else "function"))
        elif name == "BUILD":
            state = pop()
            self._build(state)
        elif name == "BINPERSID":
            push(Stored(pop()))
        elif name not in ("PROTO", "STOP"):
            raise _Refused(f"uses the pickle instruction {name}, which `torch.save` does not write. Get a new copy.")

    def _last(self, count: int) -> tuple[Any, ...]:
        taken = [self.stack.pop() for _ in range(count)]
        return tuple(reversed(taken))

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def _list(self) -> list[Any]:
        if not isinstance(self.stack[-1], list):
            raise ValueError("something is appended that is no list")
        return self.stack[-1]

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        holder = target.items if isinstance(target, Node) else target
        if not isinstance(holder, dict):
            raise ValueError("a key is set of something that is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str):  # hashes of other things can be made to collide, or to take forever
                raise ValueError("a key is no text")
            holder[key] = value

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, Node) or target.state is not None:
            raise ValueError("a state is set of something that has none")
        target.state = state


def _name(argument: str) -> Name:
    module, _, name = argument.partition(" ")
    full = full_name(module, name)
    if full not in ALLOWED:
        raise _Refused(refusal(full))
    return Name(full)


def _node(of: Any, args: Any, kind: str) -> Node:
    if not isinstance(of, Name) or not isinstance(args, tuple):
        raise ValueError("something is called that is no function")
    if ALLOWED[of.full] != kind:
        raise _Refused(refusal(f"{of.full}(...)"))
    if of.full == "builtins.getattr":
        _check_getattr(args)
    return Node(of.full, args)


def _check_getattr(args: tuple[Any, ...]) -> None:
    """The one attribute that a checkpoint looks up is the network's own forward function."""
    match args:
        case (Node(of="deepspot.spot.model.DeepSpot"), str(attribute)) if attribute.startswith(FORWARD):
            return
    # Text is shown as it is, and anything else by its type: a structure that contains itself has no end.
    shown = [repr(arg) if isinstance(arg, str) else getattr(arg, "full", type(arg).__name__) for arg in args]
    raise _Refused(refusal(f"getattr({', '.join(shown)})"))


Kind = Literal["class", "function", "value"]

_CLASSES = (
    "deepspot.spot.model.DeepSpot",
    "deepspot.spot.model.Phi",
    "deepspot.spot.model.Rho",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.linear.Linear",
    "lightning.fabric.utilities.data.AttributeDict",
    "sklearn.preprocessing._data.StandardScaler",
)
_FUNCTIONS = (
    "_codecs.encode",
    "builtins.bytes",
    "builtins.getattr",
    "builtins.set",
    "collections.OrderedDict",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
)
_VALUES = (
    "numpy.ndarray",
    *(f"torch.{name}" for name in ("DoubleStorage", "FloatStorage", "HalfStorage", "float16", "float32", "float64")),
    *(
        f"deepspot.spot.loss.loss_{name}_function"
        for name in ("mse", "cosine", "mse_cosine", "pearson", "mse_pearson", "poisson")
    ),
)
ALLOWED: dict[str, Kind] = {
    **dict.fromkeys(_CLASSES, "class"),
    **dict.fromkeys(_FUNCTIONS, "function"),
    **dict.fromkeys(_VALUES, "value"),
}

# The same things under the names that other versions of Python, numpy, Lightning and the authors' code gave them.
_RENAMED = {
    "__builtin__": "builtins",
    "deepspot.loss": "deepspot.spot.loss",
    "deepspot.model": "deepspot.spot.model",
    "lightning.pytorch.utilities.parsing": "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data": "lightning.fabric.utilities.data",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "pytorch_lightning.utilities.parsing": "lightning.fabric.utilities.data",
    "sklearn.preprocessing.data": "sklearn.preprocessing._data",
}
_SINGLE_CELL = ("deepspot.cell.", "deepspot.deepspot2cell.")


def full_name(module: str, name: str) -> str:
    """The one name under which something is known here."""
    return f"{_RENAMED.get(module, module)}.{name}"


def refusal(name: str) -> str:
    """Why a name that is not allowed stops the conversion."""
    name = name[:80].encode("unicode_escape").decode()  # it goes to a terminal
    if name.startswith(_SINGLE_CELL):
        return (
            f"is a single-cell checkpoint ({name}). It takes cells and their neighbours through deeper networks than "
            "those of spots, which deepspot does not have. Only spot checkpoints (`deepspot.spot.DeepSpot`) convert."
        )
    if name.startswith("sklearn."):
        return f"scales its genes with {name}. Only a StandardScaler can be converted."
    return (
        f"asks for {name!r}, which no published checkpoint needs, so it may be malicious. Nothing of it was run. Do "
        "not open it with `torch.load`, and get the file from its authors again."
    )
