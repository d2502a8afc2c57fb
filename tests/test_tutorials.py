"""The tutorials run, in a fast form, and carry the outputs of a full run."""

import ast
import json
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

import deepspot as ds

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NAMES = ["correct_a_slide", "hd_and_xenium", "paper_workflow", "quick_start"]
FIGURE = re.compile(r"\b(ds\.pl\.(?!report)\w+|plt\.subplots|sc\.pl\.\w+|\w+\.plot\b)")


def cells(name, kind="code"):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [cell | {"source": "".join(cell["source"])} for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(name):
    """Run the code cells one after the other; the last expression of each is shown, as a notebook does."""
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells(name)):
        tree = ast.parse(cell["source"])
        shown = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        where = f"{name}, code cell {number}"
        exec(compile(tree, where, "exec"), namespace)
        if shown:
            repr(eval(compile(shown, where, "eval"), namespace))
        plt.close("all")
    return namespace


@pytest.fixture
def fast(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSPOT_FAST", "1")
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        yield tmp_path
    plt.close("all")


# scanpy of matplotlib.
@pytest.mark.filterwarnings("ignore:The set_bad function")
@pytest.mark.slow
class TestRun:
    def test_quick_start(self, fast):
        found = run("quick_start")
        assert found["slide"].tables["deepspot_spots"].obs["leiden"].nunique() > 1
        assert found["alignment"].table["symmetry"].nunique() == 8

    def test_paper_workflow(self, fast, data):
        found = run("paper_workflow")
        table = found["predicted"]
        assert set(table.uns["markers"]["group"]) == {"fibrous", "cell-rich"}
        assert {"enrichment", "deepspot_pathways"} <= set(table.uns)
        assert "deepspot_spots_subspots" in found["slide"].tables
        assert (fast / "report.html").stat().st_size > 100_000

    def test_correct_a_slide(self, fast, data):
        found = run("correct_a_slide")
        table = found["slide"].tables["table_corrected"]
        assert table.uns["deepspot"]["method"] == "posterior"
        assert "source" in table.obs
        assert "EPCAM" in table.var_names

    def test_hd_and_xenium(self, fast, data):
        found = run("hd_and_xenium")
        assert found["core"].tables["deepspot_spots"].obs["ood"].all()
        assert found["cells"].uns["deepspot"]["resolution"] == "cell"
        assert "within_spots" in found["cells"].uns["deepspot"]
        assert found["cells"].obs["leiden"].nunique() > 1


def test_all_tutorials_are_tested_and_in_the_docs():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    index = (FOLDER.parent / "index.md").read_text()
    assert all(f"tutorials/{name}" in index for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_committed_with_outputs(name):
    code = cells(name)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    for cell in code:
        if FIGURE.search(cell["source"]):
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["source"]


@pytest.mark.parametrize("name", NAMES)
def test_committed_without_traces_of_a_machine(name):
    text = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for cell in cells(name)
        for output in cell["outputs"]
    ]
    assert not [part for part in text if re.search(r"Warning|/tmp/|/root/|/home/|/work/|[A-Z]:\\", part)]
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert not [cell for cell in notebook["cells"] if cell["metadata"]]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1.5e6


@pytest.mark.parametrize("name", NAMES)
def test_links_and_names_exist(name):
    text = "\n".join(cell["source"] for cell in cells(name, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert links
    assert not [link for link in links if not (FOLDER / link).is_file()]
    source = text + "\n".join(cell["source"] for cell in cells(name))
    for space, item in re.findall(r"\bds\.(io|pp|tl|pl|datasets|models|encoders)\.([A-Za-z]\w*)", source):
        assert item in getattr(ds, space).__all__
