import base64
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import spatialdata

import deepspot as ds
from deepspot._demo.compare import difference, score, summarize
from deepspot._demo.report import chosen_genes
from deepspot._demo.run import claim, run_demo
from deepspot._demo.slides import ToySetup, load_slides

TINY = ToySetup(n_patients=3, n_rows=3, n_cols=4, n_genes=12)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, mean_color):
    out = tmp_path_factory.mktemp("demo")
    work = {"encoder": mean_color(), "network": {"members": 1, "width": 16}, "training": {"max_epochs": 3}}
    return out, run_demo(out, toy=True, seed=1, _setup=replace(TINY, **work))


def test_writes_all_files(demo):
    out, result = demo
    sdata = spatialdata.read_zarr(out / "slide.zarr")
    assert sdata.tables["deepspot_spots"].shape == (12, 12)
    assert len(list((out / "figures").glob("*.png"))) == 6
    assert pd.read_csv(out / "metrics.csv", index_col=0).index.tolist() == result["metrics"].index.tolist()
    assert len(ds.models.load(out / "model").card.genes) == 12
    assert str(out / "report.html") in result["summary"]


def test_the_test_slide_is_not_used_in_training(demo):
    out, _ = demo
    card = ds.models.load(out / "model").card
    assert {slide.patient for slide in card.slides} == {"P1", "P2"}
    test = spatialdata.read_zarr(out / "slide.zarr").tables["table"].obs["patient"].unique()
    assert list(test) == ["P3"]


def test_report_is_one_file(demo):
    out, _ = demo
    page = (out / "report.html").read_text(encoding="utf-8")
    images = re.findall(r'src="([^"]+)"', page)
    assert len(images) == 6
    for image in images:
        assert base64.b64decode(image.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert "of these slides are simulated" in page
    assert "of the option --toy" in page
    assert not re.search(r"\{[{%]|<script|url\(", page)
    assert "nan" not in re.sub(r'src="[^"]+"', "", page).lower().replace("programs", "")


def test_a_second_run_replaces_its_own_files_only(demo):
    out, _ = demo
    (out / "notes.txt").write_text("mine")
    claim(out)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "slide.zarr").exists()


def test_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="--out"):
        claim(tmp_path / "file")


def test_falls_back_to_toy_slides_with_a_reason(monkeypatch, log):
    def offline(section):
        raise ConnectionError("no network here")

    monkeypatch.setattr(ds.datasets, "her2st", offline)
    slides = load_slides(toy=False, seed=0, setup=TINY)
    assert not slides.real
    assert "no network here" in slides.why_toy
    assert any("synthetic" in message for message in log)


def test_the_test_section_is_not_in_training(data):
    slides = load_slides(toy=False, seed=0, setup=TINY)
    assert slides.real
    assert slides.name == "C5"
    assert list(slides.train) == ["C2", "C3"]


def test_scores_against_known_numbers():
    measured = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]])
    mean = np.tile([1.0, 1.0], (3, 1))
    scores = score({"deepspot": measured, "ridge": -measured, "training_mean": mean}, measured, ["A", "B"])
    np.testing.assert_allclose(scores["r_deepspot"], 1)
    np.testing.assert_allclose(scores["r_ridge"], -1)
    assert scores["r_training_mean"].isna().all()
    np.testing.assert_allclose(scores["skill_deepspot"], 1)
    np.testing.assert_allclose(scores["skill_training_mean"], 0)
    assert summarize(scores).loc["Training mean", "undefined"] == 2


@pytest.mark.parametrize(
    ("ours", "ridge", "verdict"),
    [(0.6, 0.6, "are level"), (0.2, 1.5, "DeepSpot is ahead of ridge"), (1.5, 0.2, "Ridge is ahead of DeepSpot")],
)
def test_is_ahead_of_ridge_only_if_the_interval_says_so(ours, ridge, verdict):
    """The arguments are the standard deviations of the errors of two predictions of 100 spots."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(100, 60))
    predicted = [measured + rng.normal(0, error, measured.shape) for error in (ours, ridge)]
    position = np.stack(np.divmod(np.arange(100), 10), axis=1).astype(float)
    found = difference(*predicted, measured, position)
    assert verdict in str(found)
    assert found.low < found.mean < found.high
    nothing = difference(predicted[0], predicted[0], measured, position)
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)
    assert "are level" in str(nothing)


def test_chooses_the_best_and_a_typical_gene():
    r = pd.Series([0.1, np.nan, 0.5, 0.3, 0.9, 0.2], index=list("ABCDEF"))
    assert [gene for gene, _ in chosen_genes(r)] == ["E", "C", "D", "D"]
    r = pd.Series(np.linspace(0, 1, 9), index=list("ABCDEFGHI"))
    genes, how = zip(*chosen_genes(r), strict=True)
    assert genes == ("I", "H", "G", "E")
    assert how[0] == "Best of 9 genes"
    assert how[-1].startswith("Typical")
