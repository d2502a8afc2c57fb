"""A cohort that was killed and started again equals an undisturbed one."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr

import deepspot as ds

SCRIPT = Path(__file__).with_name("killed.py")
# Whether the second slide is finished when the process is killed in a phase.
PHASES = {
    "model": False,
    "opening": False,
    "spots": False,
    "embedding": False,
    "predicting": False,
    "writing": False,
    "completing": False,
    "placed": True,
    "run_table": True,
    "pseudobulk": True,
}


@pytest.fixture(scope="module")
def rows(files):
    return pd.DataFrame({"path": [str(files / f"P{i}_S1.tiff") for i in (1, 2)], "patient": ["P1", "P2"]})


@pytest.fixture(scope="module")
def killed(model, encoder, rows, tmp_path_factory):
    """Folders of cohorts whose process was killed, by phase."""
    folder = tmp_path_factory.mktemp("killed")
    model.save(folder / "bundle")
    ds.cohort.run(rows[:1], model, folder / "first", encoder=encoder)
    for phase in PHASES:
        if phase != "model":  # it is saved before the first slide
            shutil.copytree(folder / "first", folder / phase)
    rows.to_csv(folder / "manifest.csv", index=False)
    command = [sys.executable, str(SCRIPT), "manifest.csv", "bundle", ".", *PHASES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split("\n")[:-1] == [f"{phase} {signal.SIGKILL:d}" for phase in PHASES], done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def undisturbed(model, encoder, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return out, ds.cohort.run(rows, model, out, encoder=encoder)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_killed_and_started_again(phase, killed, undisturbed, model, encoder, rows, monkeypatch):
    out = killed / phase
    monkeypatch.setattr(ds.settings, "cache_dir", killed / f"cache_{phase}")
    slides = {path.name for path in (out / "slides").iterdir()}
    assert slides == ({"P1_S1.zarr"} if phase != "model" else set()) | ({"P2_S1.zarr"} if PHASES[phase] else set())
    for name in slides:
        same_slide(out / "slides" / name, undisturbed[0] / "slides" / name)
    runs = ds.cohort.run(rows, model, out, encoder=encoder)
    pd.testing.assert_frame_equal(runs.drop(columns="seconds"), undisturbed[1].drop(columns="seconds"))
    pd.testing.assert_frame_equal(
        *[pd.read_csv(folder / "runs.csv").drop(columns="seconds") for folder in (out, undisturbed[0])]
    )
    for name in ("P1_S1.zarr", "P2_S1.zarr"):
        same_slide(out / "slides" / name, undisturbed[0] / "slides" / name)
    ours, theirs = (anndata.read_h5ad(folder / "pseudobulk.h5ad") for folder in (out, undisturbed[0]))
    np.testing.assert_array_equal(ours.X, theirs.X)
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    assert ds.models.load(out / "model").fingerprint == model.fingerprint
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        ".work",
        "model",
        "pseudobulk.h5ad",
        "runs.csv",
        "slides",
    ]
    assert list((out / ".work").iterdir()) == []


def same_slide(one, other):
    one, other = (read_zarr(store) for store in (one, other))
    ours, theirs = (sdata.tables["deepspot_spots"] for sdata in (one, other))
    np.testing.assert_array_equal(ours.X, theirs.X)
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    pd.testing.assert_frame_equal(ours.var, theirs.var)
    assert one.shapes["spots"].equals(other.shapes["spots"])


def test_slides_that_kill_the_process_come_last(run, manifest, tmp_path, monkeypatch):
    """The results of all others are written before."""
    work = tmp_path / "out" / ".work"
    work.mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    (work / "P1_S1.started").write_bytes(b"xx")
    real, seen = ds.io.slide, []

    def slide(path, **kwargs):
        seen.append(kwargs["name"])
        if kwargs["name"] == "P1_S1":
            seen.append(pd.read_csv(tmp_path / "out" / "runs.csv", index_col="slide"))
            seen.append(anndata.read_h5ad(tmp_path / "out" / "pseudobulk.h5ad"))
        return real(path, **kwargs)

    monkeypatch.setattr(ds.io, "slide", slide)
    assert run()["status"].tolist() == ["done", "done"]
    assert (seen[0], seen[1]) == ("P2_S1", "P1_S1")
    assert seen[2]["status"].tolist() == ["failed", "done"]
    assert "killed 2 times during this slide" in seen[2].loc["P1_S1", "error"]
    assert seen[3].obs_names.tolist() == ["P2_S1"]
    assert list(work.iterdir()) == []
