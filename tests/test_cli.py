import subprocess
import sys

import numpy as np
import pytest
import spatialdata

import deepspot as ds
from deepspot import cli, encoders, errors


@pytest.fixture
def store(slide, tmp_path):
    path = tmp_path / "slide.zarr"
    slide.write(path)
    return path


@pytest.fixture
def bundle(slide, cheap_encoder, tmp_path, monkeypatch):
    """A model on a cheap encoder, which the registry knows for as long as the test runs."""
    real = encoders.get
    monkeypatch.setattr(
        encoders,
        "get",
        lambda encoder=None: cheap_encoder if encoder in ("mean_color", cheap_encoder) else real(encoder),
    )
    model = ds.models.train(
        slide, genes=4, encoder=cheap_encoder, network={"width": 8, "members": 1}, training={"epochs": 2}
    )
    model.save(tmp_path / "model")
    for key in set(slide.tables) - {"table"}:
        del slide.tables[key]
    return tmp_path / "model"


def test_predict_adds_to_the_slide(bundle, store, capsys):
    assert cli.main(["predict", str(store), "--model", str(bundle)]) == 0
    sdata = spatialdata.read_zarr(store)
    assert sdata.tables["deepspot_spots"].shape == (30, 4)
    assert "deepspot_spots" in capsys.readouterr().out
    assert np.isfinite(sdata.tables["deepspot_spots"].X).all()


def test_predict_twice_needs_another_name(bundle, store, capsys):
    arguments = ["predict", str(store), "--model", str(bundle)]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 2
    assert "key_added" in capsys.readouterr().err
    assert cli.main([*arguments, "--key-added", "second"]) == 0
    assert {"deepspot_spots", "second"} <= set(spatialdata.read_zarr(store).tables)


def test_predict_writes_a_copy(bundle, store, tmp_path):
    out = tmp_path / "out.zarr"
    assert cli.main(["predict", str(store), "--model", str(bundle), "--out", str(out)]) == 0
    assert "deepspot_spots" in spatialdata.read_zarr(out).tables
    assert list(spatialdata.read_zarr(store).tables) == ["table"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.zarr"], "no SpatialData folder 'nowhere.zarr'"),
        (["predict", "STORE", "--model", "nowhere"], "no model 'nowhere'"),
        (["predict", "STORE", "--model", "BUNDLE", "--shapes-key", "cells"], "Key `'cells'` not found"),
        (["predict", "STORE", "--model", "BUNDLE", "--out", "STORE"], "exists"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, store, bundle, capsys):
    known = {"STORE": str(store), "BUNDLE": str(bundle)}
    assert cli.main([known.get(argument, argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deepspot: ")
    assert message in line


def test_a_runtime_that_is_not_installed_is_told_in_one_line(monkeypatch, store, capsys):
    monkeypatch.setattr("deepspot._core.settings.find_spec", lambda name: None)
    assert cli.main(["predict", str(store), "--runtime", "onnx"]) == 2
    assert "needs onnxruntime and onnxscript" in capsys.readouterr().err
    assert ds.settings.runtime == "torch"


def raise_from_a_library(*_, **__):
    np.zeros(2) @ np.zeros(3)


def raise_from_our_code(*_, **__):
    raise ValueError("a check that no user can do anything about")


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (raise_from_a_library, "mismatch"),
        (lambda: None, "unexpected keyword"),
        (raise_from_our_code, "no user"),
        (lambda *_, **__: {}["nothing"], "nothing"),
    ],
    ids=["of numpy", "a wrong call", "a plain ValueError", "a plain KeyError"],
)
def test_bugs_are_not_hidden(bug, message, monkeypatch, store):
    monkeypatch.setattr(ds.tl, "predict", bug)
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        cli.main(["predict", str(store)])


@pytest.mark.parametrize("error", [*errors.DeepSpotError.__subclasses__(), errors.DeepSpotError, PermissionError])
def test_errors_of_ours_are_told_in_one_line_with_their_notes(error, monkeypatch, store, capsys):
    def fail(*_, **__):
        raised = error("Something is wrong:\nfix it.")
        raised.add_note("This happened here.")
        raise raised

    monkeypatch.setattr(ds.tl, "predict", fail)
    assert cli.main(["predict", str(store)]) == 2
    assert capsys.readouterr().err == "deepspot: Something is wrong: fix it. This happened here.\n"


def test_demo_refuses_a_folder_of_somebody_else(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "not made by `deepspot demo`" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deepspot", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert "predict" in done.stdout
