"""Parse a pickle without calling anything in it. Calls become `Node` objects.

`torch.load(weights_only=True)` with stub classes in `safe_globals` reads the published files too, and refuses unknown
names. But it executes allowed calls, hashes any key, and prints what it refuses. With torch 2.14, a file of 626 bytes
hangs it (nested pairs of tuples as a key, as the name of a storage, or called), a chain of a million tuples as a key
crashes the process, 220 KB of `set(...)` on one list hang it, and 196 KB of `encode(...)` on one text take 1.2 GB. A
check that refuses these must track the stack, the keys and the arguments of calls, which is what this parser does.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass, field
from typing import Any

from deepspot.errors import InputError

NETWORK, CELLS = "deepspot.spot.model.DeepSpot", "deepspot.cell.model.DeepCell"
# How DeepCell pools its neighbors: an enumeration, which is called with its value.
POOLING = "deepspot.cell.model.Operation"
FORWARD = "_forward_"
STORAGE = "storage of a tensor"
# Allowlist of a published checkpoint: classes that it instantiates, functions that it calls, and values.
CLASSES = {
    NETWORK,
    CELLS,
    *(f"deepspot.{kind}.model.{part}" for kind in ("spot", "cell") for part in ("Phi", "Rho")),
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
    POOLING,
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
}
LOSSES = ("mse", "cosine", "mse_cosine", "pearson", "mse_pearson", "poisson")
LOSSES_OF_CELLS = (*LOSSES, "l1", "huber", "l1_cosine", "huber_cosine")
VALUES = {"numpy.ndarray", *(f"deepspot.spot.loss.loss_{name}_function" for name in LOSSES)}
VALUES |= {f"deepspot.cell.loss.loss_{name}_function" for name in LOSSES_OF_CELLS}
VALUES |= {
    f"torch.{name}" for name in ("DoubleStorage", "FloatStorage", "HalfStorage", "float16", "float32", "float64")
}
# Names of the same modules in other versions of Python, numpy, Lightning and the code of the authors.
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
    """Reason why a checkpoint is refused. The message continues a sentence that starts with the file name."""


@dataclass(eq=False)
class Node:
    """A class, function or value named in the pickle, or with `args` the result of calling it.

    `state` is the argument of its ``__setstate__``, and `items` are the values set by key.
    """

    of: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)


def describe(data: bytes) -> Any:
    """Convert a pickle of protocol 2, as `torch.save` writes it, to plain containers and nodes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about text in instructions that are refused
            return _read(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Refused(f"contains no readable pickle ({error}). Get a new copy.") from error


# A published network takes about 12,000. Millions of nested tuples would take minutes in the garbage collector.
MOST_INSTRUCTIONS = 500_000
# Number of values that an instruction takes from the stack. Those in `TO_MARK` take all above the last mark.
TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "BUILD": 1, "BINPERSID": 1}
TAKEN |= {"REDUCE": 2, "NEWOBJ": 2}
TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")


def _read(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # values below each mark
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
        if not isinstance(key, str):  # hashes of other types can collide or take forever
            raise InputError("a key is not text")
        items[key] = value


def _named(argument: str) -> Node:
    module, _, name = argument.partition(" ")
    full = f"{RENAMED.get(module, module)}.{name}"
    if full not in CLASSES | FUNCTIONS | VALUES:
        raise Refused(refusal(full))
    return Node(full)


def _called(function: Any, args: Any, callable_names: set[str]) -> Node:
    if not isinstance(function, Node) or function.args is not None or not isinstance(args, tuple):
        raise InputError("an object is called that is not a function")
    if function.of not in callable_names:
        raise Refused(refusal(f"{function.of}(...)"))
    if function.of == "builtins.getattr":
        match args:
            case (Node(of=owner), str(attribute)) if owner in (NETWORK, CELLS) and attribute.startswith(FORWARD):
                pass  # the forward function of the network
            case (Node(of=owner), "MAX" | "MEAN" | "SUM" | "NONE") if owner == POOLING:
                pass  # Python 3.11 writes a member of an enumeration by its name, others by its value
            case _:
                # Only text is shown by value, because a structure that contains itself has an endless repr.
                shown = [repr(arg) if isinstance(arg, str) else type(arg).__name__ for arg in args]
                raise Refused(refusal(f"getattr({', '.join(shown)})"))
    return Node(function.of, args)


def refusal(name: str) -> str:
    """Return the reason why a name is refused."""
    name = name[:80].encode("unicode_escape").decode()  # no control characters
    if name.startswith("deepspot.deepspot2cell."):
        return (
            f"is a checkpoint of DeepSpot2Cell ({name}). Only those of DeepSpot and DeepCell can be converted. Train "
            "one with `ds.models.train(slides, preset='deepspot2cell')`."
        )
    if name.startswith("sklearn."):
        return f"scales its genes with {name}. Only a StandardScaler can be converted."
    return (
        f"names {name!r}, which no published checkpoint needs, so it may be malicious. No code in it was run. Do not "
        "open it with `torch.load`, and download the file from its authors again."
    )
