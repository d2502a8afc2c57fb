"""What modules and functions compute, as text that is the same in every process."""

from __future__ import annotations

import ast
import inspect
import re
from textwrap import dedent
from types import CodeType
from typing import TYPE_CHECKING, Any

from deepspot._core.hashing import digest

if TYPE_CHECKING:
    from torch import nn


def describe_module(module: nn.Module) -> list[Any]:
    """Structure of a module, and hashes of its weights in float32."""
    weights = [[name, digest(value.cpu().float().numpy())] for name, value in module.state_dict().items()]
    return [repr(module), weights]


def describe_code(function: Any) -> str:
    """What a function does. Its repr is its address; objects without code, as torchvision's, describe themselves."""
    code = getattr(function, "__code__", None)
    if code is None:
        return without_addresses(repr(function))
    return f"{_flat(code)} {_closure(function)}"


def describe_source(method: Any) -> str:
    """What a method does, whatever Python compiles its source to."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":  # of which one line may hold several
        return describe_code(function)
    try:
        source = ast.unparse(ast.parse(dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed into an interpreter
        return describe_code(function)
    return f"{source} {_closure(function)}"


def without_addresses(text: str) -> str:
    """Text without the places of objects in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _closure(function: Any) -> list[str]:
    return [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]


def _flat(code: CodeType) -> str:
    constants = [_flat(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
