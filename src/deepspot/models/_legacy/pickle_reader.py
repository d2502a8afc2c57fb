"""A pickle is read as a description: nothing in it is called, and what it would call becomes a `Node`.

`torch.load(weights_only=True)` with stub classes in `safe_globals` reads the published files too, and refuses unknown
names. But it carries out the calls that it allows, hashes any key, and prints what it does not call. With torch 2.14, a
file of 626 bytes hangs it (a tuple of twice a tuple of twice … as a key, as the name of a storage, or called), a chain
of a million tuples as a key crashes the process, 220 KB of `set(...)` on one list hang it, and 196 KB of `encode(...)`
on one text take 1.2 GB. A check that refuses these before has to follow the stack, the keys and the arguments of calls.
That makes it this reader, so `torch.load` would only come on top of it.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from typing import Any

from deepspot.errors import InputError

NETWORK = "deepspot.spot.model.DeepSpot"
FORWARD = "_forward_"
STORAGE = "storage of a tensor"
# What a published checkpoint names: classes that it makes objects of, functions that it calls, and values.
CLASSES = {
    NETWORK,
    "deepspot.spot.model.Phi",
    "deepspot.spot.model.Rho",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.linear.Linear",
    "lightning.fabric.utilities.data.AttributeDict",
    "sklearn.preprocessing._data.StandardScaler",
}
FUNCTIONS = {
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
}
LOSSES = ("mse", "cosine", "mse_cosine", "pearson", "mse_pearson", "poisson")
VALUES = {"numpy.ndarray", *(f"deepspot.spot.loss.loss_{name}_function" for name in LOSSES)}
VALUES |= {
    f"torch.{name}" for name in ("DoubleStorage", "FloatStorage", "HalfStorage", "float16", "float32", "float64")
}
# The same modules under the names that other versions of Python, numpy, Lightning and the authors' code gave them.
RENAMED = {
    "__builtin__": "builtins",
    "deepspot.loss": "deepspot.spot.loss",
    "deepspot.model": "deepspot.spot.model",
    "lightning.pytorch.utilities.parsing": "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data": "lightning.fabric.utilities.data",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "pytorch_lightning.utilities.parsing": "lightning.fabric.utilities.data",
    "sklearn.preprocessing.data": "sklearn.preprocessing._data",
}


class Refused(Exception):
    """Why a checkpoint is refused, as what follows the name of the file in a sentence."""


@dataclass(eq=False)
class Node:
    """A class, function or value that the pickle names, or with `args` what a call of it would make.

    `state` is what its ``__setstate__`` would get, and `items` what would be set by key.
    """

    of: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)


def describe(data: bytes) -> Any:
    """Turn a pickle of protocol 2, as `torch.save` writes it, into plain containers and nodes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about text in instructions that are refused anyway
            return _read(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Refused(f"holds no readable pickle ({error}). Get a new copy.") from error


# A published network takes some 12,000. Millions of nested tuples would keep Python's garbage collector busy.
MOST_INSTRUCTIONS = 500_000
# How many values an instruction takes from the stack; those in `TO_MARK` take all down to the last mark.
TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "BUILD": 1, "BINPERSID": 1}
TAKEN |= {"REDUCE": 2, "NEWOBJ": 2}
TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")


def _read(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies below each mark
    memo: dict[int, Any] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if number > MOST_INSTRUCTIONS:
            raise Refused(f"is described by more than {MOST_INSTRUCTIONS:,} instructions. Get a new copy.")
        if opcode.name in TO_MARK:
            taken, stack = stack, below.pop()
        else:
            taken = [stack.pop() for _ in range(TAKEN.get(opcode.name, 0))][::-1]
        match opcode.name:
            case "MARK":
                below.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "NONE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                stack.append(tuple(taken))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND" | "APPENDS":
                stack[-1].extend(taken)
            case "SETITEM" | "SETITEMS":
                _set_items(stack[-1], taken)
            case "GLOBAL":
                stack.append(_named(argument))
            case "REDUCE" | "NEWOBJ":
                stack.append(_called(taken[0], taken[1], CLASSES if opcode.name == "NEWOBJ" else FUNCTIONS))
            case "BUILD":
                stack[-1].state = taken[0]
            case "BINPERSID":
                stack.append(Node(STORAGE, *taken))
            case "PROTO" | "STOP":
                pass
            case other:
                raise Refused(
                    f"uses the pickle instruction {other}, which `torch.save` does not write. Get a new copy."
                )
    if below or len(stack) != 1:
        raise InputError("it does not end with one value")
    return stack[0]


def _set_items(target: Any, pairs: list[Any]) -> None:
    items = target.items if isinstance(target, Node) else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str):  # hashes of other things can be made to collide, or to take forever
            raise InputError("a key is no text")
        items[key] = value


def _named(argument: str) -> Node:
    module, _, name = argument.partition(" ")
    full = f"{RENAMED.get(module, module)}.{name}"
    if full not in CLASSES | FUNCTIONS | VALUES:
        raise Refused(refusal(full))
    return Node(full)


def _called(function: Any, args: Any, callable_names: set[str]) -> Node:
    if not isinstance(function, Node) or function.args is not None or not isinstance(args, tuple):
        raise InputError("something is called that is no function")
    if function.of not in callable_names:
        raise Refused(refusal(f"{function.of}(...)"))
    if function.of == "builtins.getattr":
        match args:
            case (Node(of=owner), str(attribute)) if owner == NETWORK and attribute.startswith(FORWARD):
                pass  # the network's own forward function, the one attribute that a checkpoint looks up
            case _:
                # Text is shown as it is, and anything else by its type: a structure that holds itself has no end.
                shown = [repr(arg) if isinstance(arg, str) else type(arg).__name__ for arg in args]
                raise Refused(refusal(f"getattr({', '.join(shown)})"))
    return Node(function.of, args)


def refusal(name: str) -> str:
    """Why a name that is not allowed stops the conversion."""
    name = name[:80].encode("unicode_escape").decode()  # it goes to a terminal
    if name.startswith(("deepspot.cell.", "deepspot.deepspot2cell.")):
        return (
            f"is a single-cell checkpoint ({name}). It takes cells and their neighbors through deeper networks than "
            "those of spots, which deepspot does not have. Only spot checkpoints (`deepspot.spot.DeepSpot`) convert."
        )
    if name.startswith("sklearn."):
        return f"scales its genes with {name}. Only a StandardScaler can be converted."
    return (
        f"asks for {name!r}, which no published checkpoint needs, so it may be malicious. Nothing of it was run. Do "
        "not open it with `torch.load`, and get the file from its authors again."
    )
