"""The source of the package contains no call that executes loaded files."""

import ast
from pathlib import Path

import pytest

import deepspot

ROOT = Path(deepspot.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy"}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def dangerous(tree):
    """Yield the calls and imports that could execute loaded code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            yield from (node.module for name in node.names if not name.name.endswith("Error"))
        elif isinstance(node, ast.Call):
            yield from _calls(node)


def _calls(node):
    name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in BUILTINS or name.startswith("torch.hub") or name.endswith(("read_pickle", "torch.hub.load")):
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and given.get("Loader") not in (
        "yaml.SafeLoader",
        "yaml.BaseLoader",
    ):
        yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loaded_file_is_executed(path):
    assert not list(dangerous(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "f(trust_remote_code=True)",
        "np.load(p, allow_pickle=True)",
        "torch.hub.load(r)",
        "pd.read_pickle(p)",
        "yaml.load(x, Loader=yaml.Loader)",
    ],
)
def test_dangerous_lines_are_detected(line):
    assert list(dangerous(ast.parse(line)))
