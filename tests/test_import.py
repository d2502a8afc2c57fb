import inspect
import os
import re
import statistics
import subprocess
import sys
from importlib import import_module

import pytest

import deepspot as ds

NAMESPACES = [name for name in ds.__all__ if name not in ("clear_cache", "report", "report_cohort", "settings", "view")]
PUBLIC = [
    pytest.param(getattr(import_module(f"deepspot.{space}"), name), id=f"{space}.{name}")
    for space in NAMESPACES
    for name in getattr(import_module(f"deepspot.{space}"), "__all__", [])
]
FUNCTIONS = [param for param in PUBLIC if inspect.isfunction(param.values[0])]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    return done.stdout.strip()


def test_import_stays_light():
    loaded = run("import sys, deepspot; print(*sys.modules)").split()
    heavy = {"torch", "squidpy", "scanpy", "spatialdata", "lightning", "timm", "pandas", "anndata", "matplotlib"}
    assert heavy.isdisjoint(loaded)


def test_import_is_quick():
    # Time of the processor: what else the machine does at the time is not our import.
    code = "import time; at = time.process_time(); import deepspot; print(time.process_time() - at)"
    assert statistics.median(float(run(code)) for _ in range(3)) < 0.3


def test_listing_the_registry_of_encoders_needs_no_torch():
    assert run("import sys, deepspot as ds; ds.encoders.available(); print('torch' in sys.modules)") == "False"


def test_namespaces_are_listed():
    assert set(dir(ds)) == {*ds.__all__, "__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", ds.__version__)


def test_unknown_namespace():
    with pytest.raises(AttributeError, match="module 'deepspot' has no attribute 'foo'"):
        ds.foo  # noqa: B018


@pytest.mark.parametrize("space", NAMESPACES)
def test_all_resolves(space):
    module = import_module(f"deepspot.{space}")
    assert getattr(ds, space) is module
    for name in getattr(module, "__all__", []):
        assert getattr(module, name).__doc__.strip()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_docstring_says_what_comes_back(function):
    silent = function.__annotations__["return"] == "None" and "sdata" not in function.__annotations__
    assert silent or re.search(r"^Returns\n-+\n\S", inspect.getdoc(function), re.MULTILINE)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_at_most_two_positional_arguments(function):
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    most = 3 if function is ds.cohort.run else 2  # no object comes first there: a list, a model, and where results go
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= most
