"""What the docs say and what the code offers must not drift apart."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import deepspot as ds

ROOT = Path(__file__).parents[1]
TOP = {"clear_cache", "report", "settings"}
NAMESPACES = sorted(set(ds.__all__) - TOP)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def public() -> dict[str, object]:
    modules = {name: importlib.import_module(f"deepspot.{name}") for name in NAMESPACES}
    items = {f"{name}.{item}": getattr(module, item) for name, module in modules.items() for item in names(module)}
    return {"clear_cache": ds.clear_cache, "report": ds.report} | items


def names(module) -> list[str]:
    """Names in `__all__`, and the classes of results, which no user makes."""
    classes = [name for name, item in vars(module).items() if inspect.isclass(item)]
    return sorted({*module.__all__, *(name for name in classes if name[0] != "_")})


PUBLIC = public()
FUNCTIONS = {name: item for name, item in PUBLIC.items() if inspect.isfunction(item)}


def section(docstring: str, title: str) -> list[str]:
    """Lines of a section of a cleaned numpy docstring."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", docstring + "\n", flags=re.M | re.S)
    return found.group(1).splitlines() if found else []


def fenced(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)]


def test_readme_starts_with_exactly_two_commands():
    text = (ROOT / "README.md").read_text()
    assert fenced(text)[:2] == [
        "python -m pip install . && python -m deepspot demo",
        'python -m pip install ".[test]" && python -m pytest',
    ]
    title, purpose, *commands = [part for part in re.split(r"\n\s*\n", text) if part][:4]
    assert title.startswith("# deepspot")
    assert "```" not in purpose
    assert all(part.startswith("```") for part in commands)


def installed_by_default() -> set[str]:
    """Distributions that `pip install .` brings: the dependencies without extras, and theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    open_ends = [Requirement(line) for line in project["dependencies"]]
    while open_ends:
        needed = open_ends.pop()
        for extra in ("", *sorted(needed.extras)):
            name = f"{canonicalize_name(needed.name)}[{extra}]"
            if name in found:
                continue
            found.add(name)
            try:
                lines = requires(needed.name) or []
            except PackageNotFoundError:  # for another platform
                continue
            below = [Requirement(line) for line in lines]
            open_ends += [part for part in below if part.marker is None or part.marker.evaluate({"extra": extra})]
    return {name.partition("[")[0] for name in found}


def from_extras() -> set[str]:
    """Modules that are installed here and would not be by `pip install .`."""
    core = installed_by_default() | {"deepspot"}
    modules = packages_distributions().items()
    return {module for module, names in modules if core.isdisjoint(map(canonicalize_name, names))}


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.M | re.S)


def test_the_dependencies_tell_what_is_installed():
    absent = from_extras()
    assert {"igraph", "leidenalg", "pytest"} <= absent  # the tests' own environment has all extras
    assert absent.isdisjoint({"scanpy", "umap", "torch", "numpy", "skglm", "anndata"})


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_code_blocks_import_only_what_is_installed_by_default(page):
    trees = [ast.parse(block) for block in python_blocks(page)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    named |= {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    assert not {name.partition(".")[0] for name in named} & from_extras()


FIRST_BLOCK = """
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed

import deepspot as ds
from spatialdata import SpatialData

def visium(path, *, dataset_id, fullres_image_file):
    toy = ds.datasets.toy(1, n_rows=4, n_cols=5)["P1_S1"]
    table = toy.tables["table"].copy()
    table.var_names = ["FASN", *table.var_names[1:]]
    table.obs["region"] = table.obs["region"].cat.rename_categories({{"spots": dataset_id}})
    table.uns["spatialdata_attrs"]["region"] = dataset_id
    images = {{f"{{dataset_id}}_full_image": image for image in toy.images.values()}}
    return SpatialData(images=images, shapes={{dataset_id: toy.shapes["spots"]}}, tables={{"table": table}})

ds.io.visium = visium
exec({block!r})
assert genes.n_vars == 1000
"""


def test_the_first_code_block_runs_after_a_plain_install(tmp_path):
    script = tmp_path / "first.py"
    script.write_text(FIRST_BLOCK.format(absent=sorted(from_extras()), block=python_blocks("README.md")[0]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr


def test_readme_has_one_test_command():
    # .ci/run takes it from here.
    lines = [line for block in fenced((ROOT / "README.md").read_text()) for line in block.splitlines()]
    assert sum("python -m pytest" in line for line in lines) == 1


def test_api_page_lists_every_public_name():
    blocks = re.findall(r"```\{eval-rst\}\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), flags=re.S)
    listed = [line.strip() for block in blocks for line in block.splitlines() if re.fullmatch(r"   [a-zA-Z]\S*", line)]
    assert len(listed) == len(set(listed))
    assert set(listed) == {"settings", *PUBLIC}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_all_is_sorted_and_documented(namespace):
    module = importlib.import_module(f"deepspot.{namespace}")
    # As ruff sorts: names in capitals first.
    assert sorted(module.__all__, key=lambda name: (not name.isupper(), name)) == list(module.__all__)
    assert module.__doc__
    assert all(getattr(module, name).__doc__ for name in module.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_an_example(name):
    assert any(line.startswith(">>> ") for line in section(inspect.getdoc(FUNCTIONS[name]), "Examples"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_describes_the_parameters(name):
    lines = section(inspect.getdoc(FUNCTIONS[name]), "Parameters")
    described = [part.lstrip("*") for line in lines if line and line[0] != " " for part in line.split(", ")]
    assert described == list(inspect.signature(FUNCTIONS[name]).parameters)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_only_what_exists(page):
    names = re.findall(rf"\b(?:ds|deepspot)\.((?:{'|'.join(NAMESPACES)})\.[A-Za-z]\w*)", page.read_text())
    assert set(names) <= set(PUBLIC)
    fields = re.findall(r"\bds\.settings\.(\w+)", page.read_text())
    assert all(hasattr(ds.settings, field) for field in fields)


def test_changelog_has_this_version():
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert versions[0] == ds.__version__


def test_preset_table_is_that_of_the_code():
    from deepspot.models._network.config import PRESETS

    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "model.md").read_text(), flags=re.M)
    table = {field: [cell.strip() for cell in cells.split("|")] for field, cells in rows}
    for column, preset in enumerate(["paper", "published", "default"]):
        for part in (PRESETS[preset].network, PRESETS[preset].training):
            for field, value in part.model_dump(exclude={"context"}).items():
                cell = table[field][column]
                as_number = isinstance(value, int | float) and not isinstance(value, bool)
                assert (float(cell) == value) if as_number else (cell == str(value)), (preset, field)


def test_contributing_names_every_folder():
    text = (ROOT / "docs" / "contributing.md").read_text()
    folders = {path.name for path in (ROOT / "src" / "deepspot").iterdir() if path.is_dir()} - {"__pycache__"}
    assert not [name for name in folders if f"`{name}/`" not in text]


def test_contributing_names_only_files_that_exist():
    text = (ROOT / "docs" / "contributing.md").read_text()
    names = re.findall(r"`(\w+/[\w/]+\.py)`", text)
    places = (ROOT, ROOT / "src" / "deepspot")
    assert names
    assert not [name for name in names if not any((place / name).exists() for place in places)]
