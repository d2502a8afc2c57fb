"""The metadata of the package fit its code: dependencies, extras, citation, workflows."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
import tifffile
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


def closure(names: set[str]) -> set[str]:
    """Distributions that are installed with these without any extra that they do not name, themselves included."""
    found, waiting = set(), [Requirement(name) for name in names]
    while waiting:
        needed = waiting.pop()
        for extra in ("", *sorted(needed.extras)):
            key = f"{canonicalize_name(needed.name)}[{extra}]"
            if key in found:
                continue
            found.add(key)
            try:
                lines = requires(needed.name) or []
            except PackageNotFoundError:  # for another platform
                continue
            below = [Requirement(line) for line in lines]
            waiting += [one for one in below if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {key.partition("[")[0] for key in found}


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


def test_no_file_has_merge_conflicts():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert files
    marker = re.compile(rb"^(?:<{7}|>{7}) ", re.M)
    assert not [path for path in files if path.is_file() and marker.search(path.read_bytes())]


def from_extras() -> set[str]:
    """Modules that are installed here and would not be by `pip install .`."""
    core = closure(CORE) | {"deepspot"}
    modules = packages_distributions().items()
    return {module for module, names in modules if core.isdisjoint(map(canonicalize_name, names))}


def test_the_dependencies_tell_what_is_installed():
    absent = from_extras()
    assert {"igraph", "leidenalg", "pytest", "skglm"} <= absent  # the tests' own environment has all extras
    assert absent.isdisjoint({"scanpy", "squidpy", "umap", "torch", "numpy", "anndata"})


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_code_blocks_import_only_what_is_installed_by_default(python_blocks, page):
    trees = [ast.parse(block) for blocks in python_blocks(page) for block in blocks]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    named |= {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    assert not {name.partition(".")[0] for name in named} & from_extras()


SCRIPT = """
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
for block in {blocks!r}:
    exec(block)
"""


def whole_slide(path):
    """A slide at 0.5 µm per pixel, most of it tissue."""
    image = ds.datasets.toy(1, n_rows=5, n_cols=5, mpp=0.5)["P1_S1"].images["P1_S1_image"]
    pixels = getattr(image, "data", None)
    if pixels is None:
        pixels = image["scale0"].image.data
    pixels = np.asarray(pixels).transpose(1, 2, 0)
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None, **resolution)


@pytest.mark.slow
def test_the_code_blocks_of_the_readme_run_after_its_install_command(python_blocks, tmp_path):
    whole_slide(tmp_path / "slide.tif")
    (tmp_path / "manifest.csv").write_text("path,patient\nslide.tif,P1\n")
    script = tmp_path / "readme.py"
    optional = {canonicalize_name(Requirement(line).name) for lines in EXTRAS.values() for line in lines}
    # torchmetrics looks at the metadata whether it may import transformers, so that it cannot be hidden.
    hidden = optional - closure(CORE) - {"deepspot", "transformers"}
    modules = packages_distributions().items()
    absent = {module for module, names in modules if hidden.intersection(map(canonicalize_name, names))}
    assert {"igraph", "leidenalg", "skglm"} <= absent
    blocks, left_out = python_blocks("README.md")
    assert not left_out
    script.write_text(SCRIPT.format(absent=absent, blocks=blocks))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert {"my_model", "report.html", "slide.zarr", "predicted"} <= written
