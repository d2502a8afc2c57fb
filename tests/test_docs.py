"""What the docs say and what the code offers must not drift apart."""

import contextlib
import importlib.util
import inspect
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import deepspot as ds
from deepspot.encoders import _registry

ROOT = Path(__file__).parents[1]
TOP = {"clear_cache", "report", "report_cohort", "settings", "view"}
NAMESPACES = sorted(set(ds.__all__) - TOP)
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "api").glob("*.md"))]
EXAMPLES = DOCS / "examples.md"  # its blocks run before those of other pages
RUN = sorted(page.name for page in DOCS.glob("*.md") if "```python" in page.read_text() and page != EXAMPLES)


def public() -> dict[str, object]:
    modules = {name: importlib.import_module(f"deepspot.{name}") for name in NAMESPACES}
    items = {f"{name}.{item}": getattr(module, item) for name, module in modules.items() for item in names(module)}
    return {
        "clear_cache": ds.clear_cache,
        "report": ds.report,
        "report_cohort": ds.report_cohort,
        "view": ds.view,
    } | items


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
        'python -m pip install ".[test]" && python -m pytest -n 2 --dist loadscope',
    ]
    title, purpose, *commands = [part for part in re.split(r"\n\s*\n", text) if part][:4]
    assert title.startswith("# deepspot")
    assert "```" not in purpose
    assert all(part.startswith("```") for part in commands)


def test_readme_has_one_test_command():
    # .ci/run takes it from here.
    lines = [line for block in fenced((ROOT / "README.md").read_text()) for line in block.splitlines()]
    assert sum("python -m pytest" in line for line in lines) == 1


def test_api_page_lists_every_public_name():
    pages = [page.read_text() for page in (DOCS / "api").glob("*.md")]
    blocks = re.findall(r"```\{eval-rst\}\n(.*?)```", "\n".join(pages), flags=re.S)
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


@pytest.fixture(scope="session")
def example_data(python_blocks, tmp_path_factory):
    """What the blocks of docs/examples.md define, and the folder of the files that they write."""
    names = {}
    blocks, _ = python_blocks("docs/examples.md")
    folder = tmp_path_factory.mktemp("examples")
    with contextlib.chdir(folder):
        for block in blocks:
            exec(block, names)
    # Once, and not on every page. `benchmarks/newcomer.py` runs the pages without it.
    ds.pp.embed(names["sdata"], subspots="tokens")
    return names, folder


@pytest.fixture
def example_names(example_data, tmp_path, monkeypatch):
    """The same for one page, which may change objects and files."""
    from spatialdata import deepcopy

    names, folder = example_data
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    slides = {name: deepcopy(sdata) for name, sdata in names["slides"].items()}
    copies = {name: names[name].copy() for name in ("profiles", "bulk")}
    return names | copies | {"slides": slides, "sdata": deepcopy(names["sdata"])}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # few patients, few epochs
@pytest.mark.parametrize("page", RUN)
def test_code_blocks_run(python_blocks, example_names, page, monkeypatch):
    for known in ("_registry", "_built"):  # encoders that a block registers
        monkeypatch.setattr(f"deepspot.encoders._registry.{known}", dict(getattr(_registry, known)))
    names = example_names if "[data of the examples](examples.md)" in (DOCS / page).read_text() else {}
    for block in python_blocks(f"docs/{page}")[0]:
        exec(compile(block, page, "exec"), names)
    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_that_are_not_run_say_why(page):
    reasons = re.findall(r"^<!-- not run: (.*?) -->$", page.read_text(), flags=re.M)
    assert all(reason.startswith(("needs ", "takes ")) for reason in reasons)
    assert len(reasons) == len(re.findall(r"<!-- not run[^\n]*\n```(?:python|bash)\n", page.read_text()))


def test_gallery_shows_every_figure():
    text = (DOCS / "gallery.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, flags=re.M | re.S))
    assert sorted(sections) == sorted(ds.pl.__all__)
    for name, section in sections.items():
        *_, call = re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)
        assert f"ds.pl.{name}(" in call
        (image,) = re.findall(r"^```\{image\} (.*)$", section, flags=re.M)
        assert (DOCS / image).name == f"{name}.jpg"
        assert (DOCS / image).exists()


def test_images_of_the_docs_stay_small():
    kinds = {".jpg", ".png", ".svg", ".ipynb"}
    places = (DOCS / "_static", DOCS / "tutorials", ROOT / "benchmarks" / "results")
    sizes = {path: path.stat().st_size for place in places for path in place.rglob("*") if path.suffix in kinds}
    assert sum(sizes.values()) < 1e7
    assert sum(size for path, size in sizes.items() if path.parent.name == "gallery") < 3e6
    assert sizes[DOCS / "_static" / "landing.jpg"] < 2e5


def test_llms_txt_has_a_line_for_every_page():
    spec = importlib.util.spec_from_file_location("llms", DOCS / "_llms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = re.findall(r"^- \[(.+?)\]\(_sources/(.+?)\.txt\): (.+)$", module.llms_text(DOCS), flags=re.M)
    pages = [path for pattern in ("*.md", "api/*.md", "tutorials/*.ipynb") for path in DOCS.glob(pattern)]
    assert {path for _, path, _ in lines} == {str(path.relative_to(DOCS)) for path in pages} - {"index.md"}
    assert not [line for line in lines if "{" in "".join(line)]


def test_changelog_has_this_version():
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert versions[0] == ds.__version__


def test_preset_table_is_that_of_the_code():
    from deepspot.models._network.config import PRESETS

    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "network.md").read_text(), flags=re.M)
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


def test_benchmarks_readme_names_every_script_and_every_result():
    folder = ROOT / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    scripts = {path.name for path in folder.glob("[!_]*.py")}
    run = set(re.findall(r"`python benchmarks/([\w.]+)", text))
    assert scripts == run
    links = set(re.findall(r"\]\(([^)#]+)", text))
    assert not [link for link in links if not (folder / link).exists()]
    results = list((folder / "results").iterdir())
    assert {f"results/{path.name}" for path in results} <= links
    assert all(path.stat().st_size for path in results)
    elsewhere = re.findall(r"`(?:python )?((?:docs|scripts|tests)/[\w/]+\.py)", text)
    assert elsewhere
    assert not [name for name in elsewhere if not (ROOT / name).exists()]
