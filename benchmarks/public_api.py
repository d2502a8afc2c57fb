"""List every public signature, or the docstrings of some public names.

python benchmarks/public_api.py > benchmarks/results/signatures.txt
python benchmarks/public_api.py tl.predict models.train
"""

import inspect
import sys
from importlib import import_module
from operator import attrgetter

import deepspot as ds

PLAIN = {"clear_cache", "report", "settings"}


def public() -> dict[str, object]:
    """Public functions and classes by name."""
    items = {"clear_cache": ds.clear_cache, "report": ds.report}
    for space in sorted(set(ds.__all__) - PLAIN):
        module = import_module(f"deepspot.{space}")
        classes = {name for name, item in vars(module).items() if inspect.isclass(item) and name[0] != "_"}
        items |= {f"{space}.{name}": getattr(module, name) for name in sorted({*module.__all__, *classes})}
    return items


def describe(name: str, item: object) -> list[str]:
    """Signature of a function, or of a class and its methods."""
    if not inspect.isclass(item):
        return [f"ds.{name}{inspect.signature(item)}"]
    if issubclass(item, BaseException):
        return [f"class ds.{name}"]
    lines = [f"class ds.{name}{inspect.signature(item)}"]
    for method in (key for key in dir(item) if key[0] != "_"):
        if (value := inspect.getattr_static(item, method)) and getattr(value, "__module__", "deepspot")[
            :8
        ] == "deepspot":
            function = getattr(item, method)
            if inspect.isfunction(function) or inspect.ismethod(function):
                lines.append(f"    .{method}{inspect.signature(function)}")
    return lines


if names := sys.argv[1:]:
    for name in names:
        print(f"## ds.{name}\n\n```text\n{inspect.getdoc(attrgetter(name)(ds))}\n```\n")
else:
    for name, item in public().items():
        print("\n".join(describe(name, item)))
