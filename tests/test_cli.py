import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import spatialdata

import deepspot as ds
from deepspot import cli, encoders, errors
from deepspot._core.logging import logger
from deepspot._workflow.console import name_options


@pytest.fixture(scope="module")
def written(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "slide.zarr"
    spatialdata.deepcopy(toy["P1_S1"]).write(path)
    return path


@pytest.fixture
def store(written, tmp_path):
    return shutil.copytree(written, tmp_path / "slide.zarr")


@pytest.fixture(scope="module")
def model(toy, mean_color):
    network, training = {"width": 8, "members": 1}, {"epochs": 2}
    return ds.models.train(
        spatialdata.deepcopy(toy["P1_S1"]), genes=4, encoder=mean_color(), network=network, training=training
    )


@pytest.fixture
def bundle(model, cheap_encoder, tmp_path, monkeypatch):
    """A model on a cheap encoder, which is registered during the test."""
    real = encoders.get
    monkeypatch.setattr(
        encoders,
        "get",
        lambda encoder=None: cheap_encoder if encoder in ("mean_color", cheap_encoder) else real(encoder),
    )
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_predict_adds_to_the_slide(bundle, store, capsys):
    assert cli.main(["predict", str(store), "--model", str(bundle)]) == 0
    sdata = spatialdata.read_zarr(store)
    assert sdata.tables["deepspot_spots"].shape == (30, 4)
    assert "deepspot_spots" in capsys.readouterr().out
    assert np.isfinite(sdata.tables["deepspot_spots"].X).all()


def test_predict_twice_needs_another_name_or_overwrite(bundle, store, capsys):
    arguments = ["predict", str(store), "--model", str(bundle)]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 2
    assert "exists. Pass `--overwrite`, or another `--key-added`." in unwrapped(capsys.readouterr().err)
    assert cli.main([*arguments, "--key-added", "second"]) == 0
    sdata = spatialdata.read_zarr(store)
    sdata["deepspot_spots"].obs["old"] = 1
    sdata.delete_element_from_disk("deepspot_spots")
    sdata.write_element("deepspot_spots")
    assert cli.main([*arguments, "--overwrite"]) == 0
    tables = spatialdata.read_zarr(store).tables
    assert {"deepspot_spots", "second"} <= set(tables)
    assert "old" not in tables["deepspot_spots"].obs
    np.testing.assert_array_equal(tables["deepspot_spots"].X, tables["second"].X)


def test_predict_replaces_a_copy_only_with_overwrite(bundle, store, tmp_path, capsys):
    out = tmp_path / "new.zarr"
    arguments = ["predict", str(store), "--model", str(bundle), "--out", str(out)]
    assert cli.main(arguments) == 0
    (out / "marker").touch()
    assert cli.main(arguments) == 2
    assert "exists. Pass --overwrite, or choose another name with --out." in unwrapped(capsys.readouterr().err)
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert not (out / "marker").exists()
    assert "deepspot_spots" in spatialdata.read_zarr(out).tables
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "new.zarr", "slide.zarr"]
    (tmp_path / "notes").mkdir()
    for path, what in ((tmp_path / "notes", "no SpatialData"), (store, "the slide itself")):
        assert cli.main([*arguments[:-1], str(path), "--overwrite"]) == 2
        assert f"is {what} and is not replaced" in unwrapped(capsys.readouterr().err)


def test_export_writes_the_prediction(bundle, store, tmp_path, capsys):
    assert cli.main(["predict", str(store), "--model", str(bundle)]) == 0
    genes = spatialdata.read_zarr(store).tables["deepspot_spots"].var_names
    command = ["export", str(store), str(tmp_path / "s.csv"), "--genes", f"{genes[2]},{genes[0]}"]
    assert cli.main(command) == 0
    written = pd.read_csv(tmp_path / "s.csv")
    assert written.shape[0] == 30
    assert list(written)[-2:] == [genes[2], genes[0]]
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "Choose another name, or pass `--overwrite`." in unwrapped(capsys.readouterr().err)
    assert cli.main([*command, "--overwrite"]) == 0
    assert cli.main(["export", str(store), str(tmp_path / "s")]) == 2
    assert "pass `--format`, for example `--format 10x`" in unwrapped(capsys.readouterr().err)
    assert cli.main(["export", str(tmp_path / "s.csv"), str(tmp_path / "s.geojson")]) == 2
    assert "is no SpatialData" in unwrapped(capsys.readouterr().err)


def test_predict_writes_a_copy(bundle, store, tmp_path):
    out = tmp_path / "out.zarr"
    assert cli.main(["predict", str(store), "--model", str(bundle), "--out", str(out)]) == 0
    assert "deepspot_spots" in spatialdata.read_zarr(out).tables
    assert list(spatialdata.read_zarr(store).tables) == ["table"]


def unwrapped(text):
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.zarr"], "There is no slide 'nowhere.zarr'"),
        (["predict", "STORE", "--model", "nowhere"], "There is no model 'nowhere'"),
        (["predict", "STORE", "--model", "BUNDLE", "--shapes-key", "cells"], "Key `'cells'` not found"),
        (["predict", "STORE", "--model", "BUNDLE", "--out", "STORE"], "exists"),
    ],
)
def test_mistakes_are_reported_in_80_columns(arguments, message, store, bundle, capsys):
    known = {"STORE": str(store), "BUNDLE": str(bundle)}
    assert cli.main([known.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepspot:")
    assert message in unwrapped(error)
    assert all(len(line) <= 80 or " " not in line for line in error.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choose one with `image_key=`.", "Choose one with `--image-key`."),
        (
            "Pass the spots as `shapes_key`, and a `resolution`.",
            "Pass the spots as `--shapes-key`, and a `resolution`.",
        ),
        ("x exists. Pass `overwrite=True`, or another `key_added`.", "x exists. Pass another `--key-added`."),
        ("State it with `mpp=0.5`.", "State it with `--mpp 0.5`."),
        ("Try `tissue='saturation'`.", "Try `--tissue saturation`."),
        ("Call `ds.pp.embed(sdata, mpp=1)`, `sdata.images`.", "Call `ds.pp.embed(sdata, mpp=1)`, `sdata.images`."),
        ("Set it with `ds.pp.set_scale(sdata, mpp=1)`.", "Set it with `--mpp <µm per pixel>`."),
        (
            "Add them with `ds.pp.spots(sdata)`.",
            "Add them with `ds.pp.spots(sdata)` in Python, or predict the file of the slide with `deepspot cohort`, "
            "which places spots.",
        ),
    ],
)
def test_errors_name_options(text, expected):
    assert name_options(text, {"image_key", "shapes_key", "key_added", "mpp", "tissue"}) == expected


def test_overwrite_is_named_where_a_command_has_it():
    assert name_options("Pass `overwrite=True`, or another name.", {"overwrite"}) == (
        "Pass `--overwrite`, or another name."
    )


def test_several_images_are_told_apart_by_an_option(slide, bundle, tmp_path, capsys):
    slide["second"] = slide["P1_S1_image"].copy()
    slide.write(tmp_path / "two.zarr")
    assert cli.main(["predict", str(tmp_path / "two.zarr"), "--model", str(bundle)]) == 2
    assert "Choose one with `--image-key`." in unwrapped(capsys.readouterr().err)


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"deepspot {ds.__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["predict"], ["report"], ["view"], ["export"], ["cohort"], ["train"], ["convert"]]
)
def test_help_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_log_lines_are_wrapped_and_name_options(store, monkeypatch):
    seen = []
    handler = logger.handlers[0]
    before = handler.formatter

    def log(*_, **__):
        record = logger.makeRecord("deepspot", 20, "", 0, "word " * 30 + "`image_key=`", (), None)
        seen.extend(handler.format(record).splitlines())

    monkeypatch.setattr(ds.tl, "predict", log)
    cli.main(["predict", str(store)])
    assert len(seen) == 3
    assert max(map(len, seen)) <= 80
    assert seen[-1].endswith("`--image-key`")
    assert handler.formatter is before


@pytest.mark.parametrize("command", [["predict", "slide.zarr"], ["demo", "--toy"]])
def test_a_runtime_that_is_not_installed(monkeypatch, command, capsys):
    monkeypatch.setattr("deepspot._core.settings.find_spec", lambda name: None)
    assert cli.main([*command, "--runtime", "onnx"]) == 2
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
def test_errors_are_printed_with_their_notes(error, monkeypatch, store, capsys):
    def fail(*_, **__):
        raised = error("Something is wrong:\nfix it.")
        raised.add_note("This happened here.")
        raise raised

    monkeypatch.setattr(ds.tl, "predict", fail)
    assert cli.main(["predict", str(store)]) == 2
    assert capsys.readouterr().err == "deepspot: Something is wrong: fix it. This happened here.\n"


def test_demo_refuses_a_folder_of_the_user(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "not made by `deepspot demo`" in unwrapped(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deepspot", "--help"], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert "predict" in done.stdout
