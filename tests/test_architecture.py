"""The folder tree is the diagram: layers import downward only, and no file imports itself around a corner."""

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import deepspot

ROOT = Path(deepspot.__file__).parent
LAYERS = [
    "errors",
    "_core",
    "_spatial",
    "_image",
    "_stats",
    "_sdata",
    "encoders",
    "_features",
    "models",
    "io",
    "datasets",
    "pp",
    "tl",
    "pl",
    "_workflow",
    "_demo",
    "cli",
    "__main__",
]
MOST_LINES = 400


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions and for type checkers."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in modules() else base for a in node.names}
    return {target for target in found if target in modules()}


@cache
def arrows() -> dict[str, set[str]]:
    return {name: imported(name, path) for name, path in modules().items()}


def unit(name: str) -> str:
    return name.split(".")[1]


def test_every_unit_has_a_layer():
    assert {unit(name) for name in modules() if "." in name} == set(LAYERS)


def test_layers_import_downward_only():
    upward = [
        (name, target)
        for name, targets in arrows().items()
        for target in targets
        if name != "deepspot" and (target == "deepspot" or LAYERS.index(unit(target)) > LAYERS.index(unit(name)))
    ]
    assert not upward


def test_no_import_circles():
    # The namespaces at the root load on first use.
    graph = {name: targets for name, targets in arrows().items() if name != "deepspot"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_no_file_is_too_long_to_read():
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in modules().values()}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES}


def test_private_folders_say_what_they_hold():
    silent = defaultdict(list)
    for name, path in modules().items():
        if path.name == "__init__.py" and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None:
            silent[unit(name) if "." in name else name].append(name)
    assert not silent
