"""The metadata of the package fit its code: dependencies, extras, citation, workflows."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import deepspot as ds

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
# The package is built on these, whatever else brings them.
FOUNDATION = {
    *(
        "anndata",
        "dask",
        "decoupler",
        "gseapy",
        "scanpy",
        "spatialdata",
        "spatialdata-io",
        "squidpy",
        "torch",
        "xarray",
    ),
}
# Brought by others today, and used for what the package exists for: models on disk, their cards, cohorts on clusters.
MISSION = {"distributed", "pydantic", "safetensors"}
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def unconditional(name: str) -> set[str]:
    """Distributions that one always brings."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return set()
    needed = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name) for one in needed if one.marker is None}


def closure(names: set[str]) -> set[str]:
    """Distributions that are always installed with these, themselves included."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += unconditional(name)
    return found


def imports() -> dict[str, str]:
    """Modules of others that the package imports, and a file that does."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            found |= {name.partition(".")[0]: path.name for name in names}
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, "deepspot"}}


def test_the_foundation_is_declared_and_imported():
    assert FOUNDATION | MISSION <= CORE
    assert {name.replace("-", "_") for name in FOUNDATION} <= set(imports())


def test_every_import_is_installed_by_the_core_or_by_an_extra():
    modules = packages_distributions()
    optional = {canonicalize_name(Requirement(line).name) for lines in EXTRAS.values() for line in lines}
    available = closure(CORE) | optional
    missing = {
        name: path
        for name, path in imports().items()
        if available.isdisjoint(map(canonicalize_name, modules.get(name, [name])))
    }
    assert not missing


def test_nothing_is_declared_that_others_guarantee():
    for name in CORE - FOUNDATION - MISSION:
        assert name not in closure(CORE - {name}), name


def test_all_is_all_extras_but_the_tests():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all", "test"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_install_lines_work_from_a_checkout(path):
    text = path.read_text(encoding="utf-8")
    assert "deepspot[" not in text
    assert set(re.findall(r'pip install \\?"\.\[(\w+)\]', text)) <= set(EXTRAS)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ds.__version__
    assert citation["license"] == PROJECT["license"]


def test_workflows_test_the_pythons_that_are_promised():
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert {"test", "build", "release"} <= set(workflows)
    tested = {row["python"] for row in workflows["test"]["jobs"]["test"]["strategy"]["matrix"]["include"]}
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == set(promised)
    assert PROJECT["requires-python"] == f">={min(promised, key=lambda text: int(text.partition('.')[2]))}"
