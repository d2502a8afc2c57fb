"""Errors for users have one base class and are also built-in errors."""

import ast
import pickle
from pathlib import Path

import pytest

import deepspot as ds
from deepspot import errors

SOURCES = sorted(Path(ds.__file__).parent.rglob("*.py"))
KINDS = {
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "MissingKeyError": KeyError,
    "MissingPackageError": ImportError,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_errors_are_also_built_in_errors(name, kind):
    error = getattr(ds.errors, name)("Column 'a' is missing.\nAvailable: \"b\".")
    assert isinstance(error, kind)
    assert isinstance(error, ds.errors.DeepSpotError)
    assert str(error) == "Column 'a' is missing.\nAvailable: \"b\"."  # Python quotes the text of a KeyError
    again = pickle.loads(pickle.dumps(error))  # Dask sends pickled errors
    assert (type(again), str(again)) == (type(error), str(error))


def test_public_functions_raise_them(slide):
    for call, kind in (
        (lambda: ds.tl.predict(slide, shapes_key="nope"), errors.MissingKeyError),
        (lambda: ds.pp.set_scale(slide, mpp=-1), errors.InputError),
        (lambda: ds.pp.set_scale(slide, mpp="1"), errors.InputTypeError),
    ):
        with pytest.raises(kind):
            call()


def test_no_module_raises_a_built_in_error():
    # The command line reports other errors as bugs.
    plain = {kind.__name__ for kind in KINDS.values()}
    found = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise | ast.Return)
        for made in [node.exc if isinstance(node, ast.Raise) else node.value]
        if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id in plain
    ]
    assert not found
