"""Describe modules and functions as text that is the same in every process, for fingerprints."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest, source_of
from deepspot.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def describe_module(module: nn.Module) -> list[Any]:
    """Return the structure of a module and hashes of its weights in float32."""
    weights = [[name, digest(value.cpu().float().numpy())] for name, value in module.state_dict().items()]
    return [repr(module), weights]


def describe_code(function: Any, *, strict: bool = False, seen: list[Any] | None = None) -> str:
    """Describe a function by its bytecode, or an object without code, such as a torchvision transform, by its repr.

    What a function uses from outside is part of it: arrays, modules of torch, functions. Other objects are described by
    their repr, or with `strict` are refused; `seen` are functions that were described before.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return without_addresses(repr(function))
    return f"{_flat(code)} {_outside(getattr(function, '__func__', function), strict, [] if seen is None else seen)}"


def describe_source(method: Any, *, strict: bool = False, seen: list[Any] | None = None) -> str:
    """Describe a method by its source, which does not depend on the version of Python. Arguments of `describe_code`."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":  # one line may contain several
        return describe_code(function, strict=strict, seen=seen)
    try:
        source = ast.unparse(ast.parse(dedent(source_of(function))))
    except (OSError, TypeError, SyntaxError):  # defined in an interpreter
        return describe_code(function, strict=strict, seen=seen)
    return f"{source} {_outside(function, strict, [] if seen is None else seen)}"


def without_addresses(text: str) -> str:
    """Remove memory addresses from a text."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def is_plain(value: Any) -> bool:
    """Return whether a value is text, a number, an array, or a list of texts and numbers."""
    sequence = isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value)
    return sequence or value is None or isinstance(value, str | int | float | np.ndarray)


def describe_plain(value: Any) -> str:
    """Describe a plain value; an array by its content, as its repr may be shortened."""
    return digest(value) if isinstance(value, np.ndarray) else without_addresses(repr(value))


def _outside(function: Any, strict: bool, seen: list[Any]) -> list[Any]:
    """Describe what a function uses from outside: its closure, and globals that are not of an installed package."""
    if function in seen:
        return []
    seen.append(function)
    known = inspect.getclosurevars(function)
    used = {name: value for name, value in known.globals.items() if not _installed(value)} | dict(known.nonlocals)
    return [[name, _describe(value, name, function, strict, seen)] for name, value in sorted(used.items())]


def _describe(value: Any, name: str, function: Any, strict: bool, seen: list[Any]) -> Any:
    if is_plain(value):
        return describe_plain(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "state_dict"):
        return describe_module(value)
    if inspect.isfunction(value):
        return describe_source(value, strict=strict, seen=seen)
    if strict and not (callable(value) and _installed(type(value))):  # such as a transform of torchvision
        raise InputError(
            f"The function {function.__name__!r} uses {name!r}, a {type(value).__name__}, whose content cannot be "
            f"hashed. Set `{function.__name__}.fingerprint`: text that changes with everything that its predictions "
            "depend on."
        )
    return without_addresses(repr(value))


def _installed(value: Any) -> bool:
    """Return whether a module, class or function is of Python or of an installed package, which do not change."""
    if not (inspect.ismodule(value) or isinstance(value, type) or hasattr(value, "__name__")):
        return False
    file = getattr(inspect.getmodule(value), "__file__", None)
    return file is None or any(Path(file).is_relative_to(path) for path in sysconfig.get_paths().values())


def _flat(code: CodeType) -> str:
    constants = [_flat(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
