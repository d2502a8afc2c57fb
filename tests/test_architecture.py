"""The folder tree is the diagram: layers import downward only, and no file imports itself around a corner."""

import ast
import inspect
import sys
import threading
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import deepspot as ds

ROOT = Path(ds.__file__).parent
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
    "cohort",
    "pl",
    "_report",
    "_view",
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


# Measured when written (33 with the interface of models, stored features, and the card apart from its parser).
# Reading how a slide is predicted should not mean opening more files than this.
MOST_FILES_OF_PREDICT = 33


@pytest.mark.slow
def test_predicting_a_slide_calls_functions_of_few_files():
    warm, slide = ds.datasets.toy(2, 1, n_rows=3, n_cols=4).values()
    ds.tl.predict(warm)  # what only the first call does (the model and the encoder are read) does not count
    entered = set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_NEWLOCALS and code.co_filename.startswith(str(ROOT)):
            entered.add(str(Path(code.co_filename).relative_to(ROOT)))

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        ds.tl.predict(slide)
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    assert len(entered) <= MOST_FILES_OF_PREDICT, sorted(entered)


def private_uses(node):
    """What a line of a test imports or reads of the package that is no public name under `ds`."""
    if isinstance(node, ast.ImportFrom):
        return [node] if node.level or str(node.module).split(".")[0] == "deepspot" else []
    if isinstance(node, ast.Import):
        ours = [alias for alias in node.names if alias.name.split(".")[0] == "deepspot"]
        return [alias for alias in ours if (alias.name, alias.asname) != ("deepspot", "ds")]
    if isinstance(node, ast.Attribute):
        return [node] if node.attr.startswith("_") and ast.unparse(node).startswith("ds.") else []
    return []


def test_behavior_tests_use_public_names_only():
    """They outlast any rearrangement of the code: what they import and call is what a user can."""
    paths = sorted((Path(__file__).parent / "behavior").glob("*.py"))
    assert paths
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert [ast.unparse(use) for node in ast.walk(tree) for use in private_uses(node)] == [], path.name
