import json
import shutil
from importlib import import_module
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import read_h5ad
from spatialdata import read_zarr

import deepspot as ds
from deepspot.cohort._run.folder import Folder
from deepspot.cohort._run.slide import Job, SlideOptions, find_result, one_line, split


@pytest.fixture(scope="module")
def finished(model, encoder, files, tmp_path_factory):
    """A finished cohort. Read-only."""
    rows = pd.DataFrame({"path": [str(files / f"P{i}_S1.tiff") for i in (1, 2)], "patient": ["P1", "P2"]})
    out = tmp_path_factory.mktemp("finished") / "out"

    def run(rows=rows, **options):
        return ds.cohort.run(rows, model, out, encoder=encoder, **options)

    return run, run(), out


@pytest.fixture
def again(finished, run, tmp_path):
    """Run a copy of the finished cohort again, or another one in its place."""
    shutil.copytree(finished[2], tmp_path / "out")
    return run


def test_small_cohort(run, manifest, model, tmp_path, log):
    runs = run(manifest.assign(stage=["I", "II"], tissue_area=[1.0, 2.0]))
    out = tmp_path / "out"
    assert list(runs.index) == ["P1_S1", "P2_S1"]
    assert list(runs.columns) == [
        "path",
        "patient",
        "status",
        "seconds",
        "spots",
        "ood_share",
        "artifact_share",
        "error",
    ]
    assert (runs["status"] == "done").all()
    assert runs["error"].isna().all()
    kept = pd.read_csv(out / "runs.csv", index_col="slide")
    assert kept["status"].tolist() == ["done", "done"]
    assert kept["spots"].tolist() == runs["spots"].tolist()
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
    assert [line for line in log if "/2 slides" in line] == ["1/2 slides, about a minute left", "2/2 slides"]
    assert f"2 of 2 slides are done. Run table: {out / 'runs.csv'}" in log


def test_stores_have_their_provenance(finished, manifest, model, encoder):
    _, runs, out = finished
    sdata = read_zarr(out / "slides" / "P2_S1.zarr")
    assert list(sdata.images) == []
    table = sdata.tables["deepspot_spots"]
    assert len(sdata.shapes["spots"]) == table.n_obs == runs.loc["P2_S1", "spots"]
    assert table.uns["deepspot"]["ood_share"] == pytest.approx(runs.loc["P2_S1", "ood_share"])
    assert sdata.attrs["deepspot_slide"]["path"] == manifest["path"][1]
    assert sdata.attrs["deepspot_cohort"]["made_by"] == {
        "model": model.fingerprint,
        "diameter_um": 55.0,
        "pitch_um": 100.0,
        "layout": "square",
        "tissue": "brightness",
        "rounded": False,
        "mpp": None,
        "artifacts": None,
    }
    # The single steps give the same.
    slide = ds.io.slide(manifest["path"][1], name="P2_S1")
    ds.pp.spots(slide, diameter_um=55, pitch_um=100, layout="square")
    ds.tl.predict(slide, model, encoder=encoder)
    by_hand = slide.tables["deepspot_spots"].to_df().to_numpy()
    order = table.obs["spot_id"].to_numpy().argsort()
    np.testing.assert_allclose(table.to_df().to_numpy()[order], by_hand, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(table.var["pseudobulk"], np.asarray(table.X).mean(axis=0), rtol=1e-5)


def test_spots_with_artifacts_are_flagged_or_excluded(run, files, toy, tmp_path, write_tiff):
    """A third of the second slide is covered by green ink. The brightness rule takes it for tissue."""
    image = np.ascontiguousarray(toy["P2_S1"].images["P2_S1_image"].to_numpy().transpose(1, 2, 0))
    image[:, : image.shape[1] // 3] = (20, 120, 70)
    paths = [str(files / "P1_S1.tiff"), str(write_tiff(tmp_path / "inked.tiff", image))]
    rows = pd.DataFrame({"path": paths, "patient": ["P1", "P2"]})
    runs = {name: run(rows[1:], tmp_path / str(name), artifacts=name) for name in (None, "exclude")}
    runs["flag"] = run(rows, tmp_path / "flag", artifacts="flag")
    assert runs[None]["artifact_share"].isna().all()
    shares = runs["flag"]["artifact_share"]
    assert shares["P1_S1"] == 0
    assert 0.2 < shares["inked"] < 0.7
    pd.testing.assert_series_equal(runs["exclude"]["artifact_share"], shares[1:])
    assert runs["flag"]["spots"].tolist()[1:] == runs[None]["spots"].tolist()
    flagged = read_zarr(tmp_path / "flag" / "slides" / "inked.zarr")
    kept = read_zarr(tmp_path / "exclude" / "slides" / "inked.zarr")
    good = (flagged["spots"]["artifact"] == "none").to_numpy()
    assert len(kept["spots"]) == runs["exclude"].loc["inked", "spots"] == good.sum() < len(good)
    np.testing.assert_array_equal(
        kept["spots"].get_coordinates().to_numpy(), flagged["spots"].get_coordinates().to_numpy()[good]
    )
    assert kept["deepspot_spots"].n_obs == good.sum()
    # Finished slides of other options are not taken for these.
    with pytest.raises(ValueError, match="artifacts"):
        run(rows, tmp_path / "None", artifacts="flag")
    again = run(rows, tmp_path / "flag", artifacts="flag")
    assert again["artifact_share"].tolist() == shares.tolist()


def test_profiles_are_means_over_spots(run, manifest, tmp_path):
    rows = manifest.assign(slide=["second", "first"], stage=["I", None], tissue_area=[2.5, None])
    runs = run(rows)
    profiles = read_h5ad(tmp_path / "out" / "pseudobulk.h5ad")
    assert list(profiles.obs_names) == ["second", "first"]
    assert profiles.obs["patient"].tolist() == ["P1", "P2"]
    assert profiles.obs["stage"].isna().tolist() == [False, True]
    assert profiles.obs["tissue_area"].tolist()[0] == 2.5
    assert profiles.obs["spots"].tolist() == runs["spots"].tolist()
    assert profiles.X.dtype == np.float32
    assert profiles.uns["deepspot"]["kind"] == "pseudobulk"
    for name in ("second", "first"):
        table = read_zarr(tmp_path / "out" / "slides" / f"{name}.zarr").tables["deepspot_spots"]
        np.testing.assert_allclose(profiles[name].X[0], np.asarray(table.X).mean(axis=0), rtol=1e-5)


def test_failed_slides_do_not_stop_the_others(run, files, tmp_path, log):
    names = ["nowhere", "cut_off", "P1_S1", "white", "no_scale", "gray", "P2_S1"]
    rows = pd.DataFrame({"path": [str(files / f"{name}.tiff") for name in names], "patient": names})
    runs = run(rows)
    assert runs.index[runs["status"] == "done"].tolist() == ["P1_S1", "P2_S1"]
    assert runs.loc["nowhere", "error"].startswith("FileNotFoundError: ")
    assert runs.loc["cut_off", "error"].startswith("InputError: ")
    assert "tissue" in runs.loc["white", "error"]
    assert "mpp" in runs.loc["no_scale", "error"]
    assert "gray.tiff is gray" in runs.loc["gray", "error"]
    assert not runs["error"].str.contains("\n").any()
    assert list((tmp_path / "out" / ".work").iterdir()) == []
    assert read_h5ad(tmp_path / "out" / "pseudobulk.h5ad").obs_names.tolist() == ["P1_S1", "P2_S1"]
    assert log[-1].startswith("2 of 7 slides are done, 5 failed. Run table: ")
    assert any(line.startswith("Slide 'white' failed. InputError: ") for line in log)


def test_scale_of_the_manifest_is_used(run, files):
    rows = pd.DataFrame({"path": [str(files / "no_scale.tiff")], "patient": ["P1"], "mpp": [0.5]})
    assert run(rows).loc["no_scale", "status"] == "done"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "MemoryError: not enough memory"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (KeyError("a\nb"), "KeyError: a b"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_in_one_line(error, said):
    assert one_line(error) == said


def test_a_failed_slide_is_repeated_alone(run, monkeypatch, tmp_path):
    real = ds.tl.predict

    def predict(sdata, *args, out, **kwargs):
        if "P1_S1_image" in sdata.images:
            out.mkdir()
            (out / "half").write_text("written")
            raise OSError(28, "No space left on device")
        real(sdata, *args, out=out, **kwargs)

    monkeypatch.setattr(ds.tl, "predict", predict)
    runs = run()
    assert runs["status"].tolist() == ["failed", "done"]
    assert runs.loc["P1_S1", "error"] == "OSError: [Errno 28] No space left on device"
    assert list((tmp_path / "out" / ".work").iterdir()) == []
    monkeypatch.setattr(ds.tl, "predict", real)
    before = (tmp_path / "out" / "slides" / "P2_S1.zarr").stat().st_mtime_ns
    assert run()["status"].tolist() == ["done", "done"]
    assert (tmp_path / "out" / "slides" / "P2_S1.zarr").stat().st_mtime_ns == before


def test_a_slide_finished_by_another_attempt_is_done(run, monkeypatch, tmp_path):
    real, calls = Folder.place, []

    def placed_and_failed(self, attempt, store, name):
        calls.append(name)
        real(self, attempt, store, name)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(Folder, "place", placed_and_failed)
    runs = run()
    assert calls == ["P1_S1", "P2_S1"]
    assert runs["status"].tolist() == ["done", "done"]
    assert runs["error"].isna().all()
    assert (runs["spots"] > 0).all()
    assert read_h5ad(tmp_path / "out" / "pseudobulk.h5ad").n_obs == 2


def test_an_earlier_result_does_not_hide_a_failure(again, manifest, monkeypatch):
    def predict(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ds.tl, "predict", predict)
    runs = again(manifest.assign(mpp=[None, 0.8]), overwrite=True)
    assert runs["status"].tolist() == ["done", "failed"]


@pytest.mark.parametrize("full", ["runs.csv", "pseudobulk.h5ad"])
def test_a_full_disk_at_the_end_is_an_error(full, run, manifest, files, monkeypatch, tmp_path):
    """Also if a slide has failed; the other file is written."""
    out, real = tmp_path / "out", Folder.writing

    def writing(self, target):
        if target.name == full:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Folder, "writing", writing)
    rows = pd.concat([manifest[:1], pd.DataFrame({"path": [str(files / "white.tiff")], "patient": ["P3"]})])
    text = rf"Could not write '{full}' \(OSError: \[Errno 28\] No space left on device\) in .*Finished slides are kept"
    with pytest.raises(OSError, match=text):
        run(rows)
    assert (out / "slides" / "P1_S1.zarr").exists()
    assert not (out / full).exists()
    if full == "runs.csv":
        assert read_h5ad(out / "pseudobulk.h5ad").obs_names.tolist() == ["P1_S1"]
    else:
        assert pd.read_csv(out / "runs.csv")["status"].tolist() == ["done", "failed"]


def test_profiles_of_another_model_are_deleted(again, model, monkeypatch, tmp_path):
    from copy import copy
    from dataclasses import replace

    profiles = tmp_path / "out" / "pseudobulk.h5ad"
    assert profiles.exists()
    real, seen = ds.io.slide, []

    def slide(*args, **kwargs):
        seen.append(profiles.exists())
        return real(*args, **kwargs)

    monkeypatch.setattr(ds.io, "slide", slide)
    other = copy(model)
    other.scaler = replace(model.scaler, mean=model.scaler.mean + 1)
    assert other.fingerprint != model.fingerprint
    again(model=other, overwrite=True)
    assert seen == [False, False]
    assert read_h5ad(profiles).uns["deepspot"]["fingerprint"] == other.fingerprint
    again(model=other)
    assert profiles.exists()


def test_an_interrupt_keeps_finished_slides(run, monkeypatch, tmp_path):
    real = ds.pp.spots

    def spots(sdata, **kwargs):
        if "P2_S1_image" in sdata.images:
            raise KeyboardInterrupt
        real(sdata, **kwargs)

    monkeypatch.setattr(ds.pp, "spots", spots)
    with pytest.raises(KeyboardInterrupt):
        run()
    kept = pd.read_csv(tmp_path / "out" / "runs.csv", index_col="slide")
    assert kept["status"].tolist() == ["done", "waiting"]
    assert list((tmp_path / "out" / ".work").iterdir()) == []
    monkeypatch.setattr(ds.pp, "spots", real)
    assert run()["status"].tolist() == ["done", "done"]


def test_a_restart_hashes_the_model_and_reads_each_slide_a_fixed_number_of_times(run, manifest, model, monkeypatch):
    rows = pd.concat([manifest.assign(slide=[f"{i}_a", f"{i}_b"]) for i in range(3)])
    run(rows)
    counts, hashed, opened = [], [], []
    real, zarr_open = type(model).fingerprint, zarr.open_group
    monkeypatch.setattr(type(model), "fingerprint", property(lambda self: hashed.append(1) or real.fget(self)))
    monkeypatch.setattr(zarr, "open_group", lambda *args, **kwargs: opened.append(kwargs) or zarr_open(*args, **kwargs))
    for n in (2, 6):
        hashed.clear()
        opened.clear()
        run(rows[:n])
        counts.append((len(hashed), len(opened)))
        # Parsing the metadata of a hundred arrays takes ten times as long as the rest.
        assert all(each["use_consolidated"] is False for each in opened)
    assert counts[0][0] == counts[1][0]
    assert [opens for _, opens in counts] == [2, 6]


@pytest.mark.parametrize("step", ["slide._state", "run_table.read_profile"])
def test_a_restart_looks_at_several_slides_at_a_time(run, monkeypatch, step):
    """One that waits for its disk does not hold up the others."""
    module, name = step.split(".")
    run()
    both, real = Barrier(2, timeout=60), getattr(import_module(f"deepspot.cohort._run.{module}"), name)

    def wait(store):
        both.wait()
        return real(store)

    monkeypatch.setattr(f"deepspot.cohort._run.{step}", wait)
    assert run()["status"].tolist() == ["done", "done"]


def test_finished_slides_are_skipped(finished, monkeypatch, log):
    run, first, _ = finished
    monkeypatch.delattr(ds.io, "slide")
    pd.testing.assert_frame_equal(run(), first)
    assert "2 are finished, 0 to do." in log[-2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"diameter_um": 60}, "`diameter_um` was 55.0 and is 60.0 now"),
        ({"pitch_um": 120.0}, "`pitch_um` was 100.0 and is 120.0 now"),
        ({"layout": "hexagonal"}, "`layout` was 'square' and is 'hexagonal' now"),
        ({"tissue": None}, "`tissue` was 'brightness' and is None now"),
        ({"rounded": True}, "`rounded` was False and is True now"),
    ],
)
def test_other_options_are_refused(finished, options, text):
    run, table, _ = finished
    with pytest.raises(ValueError, match=r"2 slides in .* were made with other options") as error:
        run(**options)
    assert text in str(error.value)
    assert "overwrite=True" in str(error.value)
    pd.testing.assert_frame_equal(run(), table)


def test_another_scale_in_the_manifest_is_refused(finished, manifest):
    with pytest.raises(ValueError, match=r"For 'P2_S1': `mpp` was None and is 0\.5 now"):
        finished[0](manifest.assign(mpp=[None, 0.5]))


def test_another_file_is_refused_unless_overwritten(run, files, tmp_path, write_tiff):
    path = tmp_path / "slide.tiff"
    shutil.copy(files / "P1_S1.tiff", path)
    rows = pd.DataFrame({"path": [str(path)], "patient": ["P1"]})
    run(rows)
    before = read_h5ad(tmp_path / "out" / "pseudobulk.h5ad").X
    shutil.copy(files / "P2_S1.tiff", path)
    with pytest.raises(ValueError, match="has another content now"):
        run(rows)
    run(rows, overwrite=True)
    after = read_h5ad(tmp_path / "out" / "pseudobulk.h5ad").X
    assert not np.array_equal(before, after)
    # A finished slide stays finished without its file.
    path.unlink()
    assert run(rows)["status"].tolist() == ["done"]


TABLE = "tables/deepspot_spots/"


def _lose(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _lose_chunk(path):
    next(file for file in path.rglob("c/**/*") if file.is_file()).unlink()


def _flip(path):
    path = next(file for file in path.rglob("c/**/*") if file.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _change(key):
    def change(path):
        root = json.loads(path.read_text())
        made = root["attributes"]["deepspot_cohort"]
        made.pop(key) if key else root["attributes"].update(deepspot_cohort="text")
        path.write_text(json.dumps(root))

    return change


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        (TABLE + "var/pseudobulk", _lose_chunk),
        (TABLE + "X", _lose_chunk),
        (TABLE + "X", _flip),
        (TABLE + "obsm/spatial", _lose_chunk),
        (TABLE + "obs/ood_score", _flip),
        (TABLE, _lose),
        ("shapes", _lose),
        ("", lambda store: (_lose(store), store.mkdir())),
        ("zarr.json", lambda path: path.write_text("{")),
        ("zarr.json", _lose),
        ("zarr.json", _change("content")),
        ("zarr.json", _change("spots")),
        ("zarr.json", _change(None)),
    ],
)
def test_damage_of_a_finished_slide_is_noticed(finished, files, tmp_path, part, damage):
    shutil.copytree(finished[2] / "slides", tmp_path / "slides", copy_function=shutil.copy)
    store = tmp_path / "slides" / "P1_S1.zarr"
    options = SlideOptions(**zarr.open_group(store, mode="r").attrs["deepspot_cohort"]["made_by"])
    job = Job("P1_S1", str(files / "P1_S1.tiff"), Folder(tmp_path), options)
    assert find_result(job).spots > 0  # a copy, with other times
    damage(store / part)
    assert find_result(job) is None
    assert split([job], Folder(tmp_path), overwrite=False) == ([], [job])


def test_a_damaged_slide_or_model_is_named_and_made_again(again, tmp_path, log):
    out = tmp_path / "out"
    before, fingerprint = read_h5ad(out / "pseudobulk.h5ad").X, ds.models.load(out / "model").fingerprint
    _lose_chunk(out / "slides/P2_S1.zarr" / TABLE / "X")
    (out / "model" / "card.json").write_text("")
    log.clear()
    assert (again()["status"] == "done").all()
    for damaged in ("slides/P2_S1.zarr", "model"):
        assert sum(str(out / damaged) in line and "again" in line for line in log) == 1
    np.testing.assert_array_equal(read_h5ad(out / "pseudobulk.h5ad").X, before)
    assert ds.models.load(out / "model").fingerprint == fingerprint
    log.clear()
    (out / "slides/P2_S1.zarr" / ".DS_Store").touch()  # by the Finder of macOS
    again()
    assert not any("again" in line for line in log)


def test_a_store_of_someone_else_is_not_replaced(again, tmp_path):
    store = tmp_path / "out" / "slides" / "P1_S1.zarr"
    _lose(store)
    store.mkdir()
    (store / "precious").touch()
    with pytest.raises(ValueError, match=r"P1_S1\.zarr' was not made by `ds\.cohort\.run`"):
        again()
    assert (store / "precious").exists()


def test_overwrite_repeats_only_what_differs(again, manifest, tmp_path, log):
    before = (tmp_path / "out" / "slides" / "P1_S1.zarr").stat().st_mtime_ns
    runs = again(manifest.assign(mpp=[None, 0.8]), overwrite=True)
    assert "Replacing 1 slide made with other options." in log
    assert runs["status"].tolist() == ["done", "done"]
    assert (tmp_path / "out" / "slides" / "P1_S1.zarr").stat().st_mtime_ns == before
    assert ds.io.predicted(tmp_path / "out" / "slides" / "P2_S1.zarr").attrs["deepspot_slide"]["mpp"] == 0.8


def test_cohort_may_grow(run, manifest, tmp_path):
    run(manifest[:1])
    assert run().index.tolist() == ["P1_S1", "P2_S1"]
    assert read_h5ad(tmp_path / "out" / "pseudobulk.h5ad").n_obs == 2


def test_distance_comes_from_the_model_or_must_be_given(run, model, tmp_path):
    from copy import copy

    boxed = copy(model)
    neighbors = model.card.geometry.neighbors.model_copy(update={"kind": "box", "reach": 1.0, "pitch_um": None})
    geometry = model.card.geometry.model_copy(update={"neighbors": neighbors})
    boxed.card = model.card.model_copy(update={"geometry": geometry})
    with pytest.raises(ValueError, match="Pass it as `pitch_um=`"):
        run(model=boxed)
    assert run(model=boxed, pitch_um=100)["status"].tolist() == ["done", "done"]


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"layout": "round"}, KeyError, "Key `'round'` not found in `layout`"),
        ({"tissue": "dark"}, KeyError, "Key `'dark'` not found in `tissue`"),
        ({"diameter_um": -1}, ValueError, "`diameter_um` must be above 0"),
        ({"model": "nowhere"}, FileNotFoundError, "no model 'nowhere'"),
        ({"encoder": "unheard of"}, KeyError, "not found in `ds.encoders.available"),
        ({"client": 3}, TypeError, "`client` must be a `distributed.Client` or the address"),
    ],
)
def test_invalid_input_is_an_error_before_any_slide(run, tmp_path, options, kind, text):
    with pytest.raises(kind, match=text):
        run(**options)
    assert not (tmp_path / "out" / "runs.csv").exists()


def test_out_is_needed(manifest):
    with pytest.raises(TypeError, match="`out` is missing"):
        ds.cohort.run(manifest)
