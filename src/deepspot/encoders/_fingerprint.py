"""Describe modules and functions as text that is the same in every process, for fingerprints."""

from __future__ import annotations

import ast
import inspect
import re
from textwrap import dedent
from types import CodeType
from typing import TYPE_CHECKING, Any

from deepspot._core.hashing import digest, source_of

if TYPE_CHECKING:
    from torch import nn


def describe_module(module: nn.Module) -> list[Any]:
    """Return the structure of a module and hashes of its weights in float32."""
    weights = [[name, digest(value.cpu().float().numpy())] for name, value in module.state_dict().items()]
    return [repr(module), weights]


def describe_code(function: Any) -> str:
    """Describe a function by its bytecode, or an object without code, such as a torchvision transform, by its repr."""
    code = getattr(function, "__code__", None)
    if code is None:
        return without_addresses(repr(function))
    return f"{_flat(code)} {_closure(function)}"


def describe_source(method: Any) -> str:
    """Describe a method by its source, which does not depend on the version of Python."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":  # one line may contain several
        return describe_code(function)
    try:
        source = ast.unparse(ast.parse(dedent(source_of(function))))
    except (OSError, TypeError, SyntaxError):  # defined in an interpreter
        return describe_code(function)
    return f"{source} {_closure(function)}"


def without_addresses(text: str) -> str:
    """Remove memory addresses from a text."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _closure(function: Any) -> list[str]:
    return [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]


def _flat(code: CodeType) -> str:
    constants = [_flat(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
