"""Report of a cohort, of the folder that `ds.cohort.run` wrote."""

import re
import shutil
from html import unescape

import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot import cli
from deepspot._report.cohort_facts import gather, read_runs
from deepspot.cohort._run.attention import needs_attention, profile_scores


@pytest.fixture(scope="module")
def folder(model, files, encoder, tmp_path_factory):
    """Two finished slides, of copies that can be moved, and one that failed. Read-only."""
    base = tmp_path_factory.mktemp("cohort")
    for name in ("P1_S1.tiff", "P2_S1.tiff"):
        shutil.copy(files / name, base / name)
    paths = [base / "P1_S1.tiff", base / "P2_S1.tiff", files / "white.tiff"]
    manifest = pd.DataFrame({"path": [str(path) for path in paths], "patient": ["P1", "P2", "P3"]})
    ds.cohort.run(manifest, model=model, encoder=encoder, out=base / "out")
    return base / "out"


def text_of(path):
    return unescape(" ".join(re.sub("<[^>]+>", " ", path.read_text(encoding="utf-8")).split()))


def test_what_needs_attention_and_what_is_drawn(folder, model, tmp_path, log):
    path = ds.report_cohort(folder, tmp_path / "cohort.html")
    page, text = path.read_text(encoding="utf-8"), text_of(path)
    assert "2 of 3 slides of 3 patients are predicted, 1 failed" in text
    assert re.search(r"white failed: InputError: .*shows no tissue", text)
    assert page.count('class="card"') == 2
    gene = model.expected_r()["expected_r"].fillna(-1).idxmax()
    assert f"right {gene} , predicted" in text
    assert "needs at least 5 predicted slides" in text
    assert "<script" not in page
    assert "http" not in page
    assert not [line for line in log if line.startswith("Opened")]


def test_a_chosen_gene_and_few_slides(folder, model, tmp_path):
    gene = model.card.genes[-1]
    path = ds.report_cohort(folder, tmp_path / "cohort.html", gene=gene, n=1, title="<Study>")
    assert path.read_text(encoding="utf-8").count('class="card"') == 1
    assert "1 more slide is predicted and not drawn" in text_of(path)
    assert f"right {gene} , predicted" in text_of(path)
    assert "Cohort &lt;Study&gt;" in path.read_text(encoding="utf-8")


def test_a_moved_image_is_named(folder, tmp_path):
    image = folder.parent / "P1_S1.tiff"
    image.rename(tmp_path / "elsewhere.tiff")
    try:
        path = ds.report_cohort(folder, tmp_path / "cohort.html")
    finally:
        (tmp_path / "elsewhere.tiff").rename(image)
    assert f"drawn without its image. The image of slide 'P1_S1' was {image}" in text_of(path)
    assert path.read_text(encoding="utf-8").count('class="card"') == 2


def test_command_line(folder, model, tmp_path, capsys):
    gene, out = model.card.genes[1], tmp_path / "cohort.html"
    assert cli.main(["report", str(folder), "--out", str(out), "--genes", gene]) == 0
    assert f"deepspot report {folder}" in text_of(out)
    assert cli.main(["report", str(folder), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "mine", "--mpp", "0.5"], "--model, --mpp cannot be given for the report of a cohort"),
        (["--genes", "A,B"], "draws one gene"),
    ],
)
def test_options_of_one_slide_are_refused(folder, tmp_path, options, message, capsys):
    assert cli.main(["report", str(folder), "--out", str(tmp_path / "cohort.html"), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "cohort.html").exists()


def test_slides_with_many_artifacts_need_attention():
    runs = {"status": "done", "error": "", "ood_share": 0.1, "spots": 100, "artifact_share": [0.1, 0.4, np.nan]}
    found = needs_attention(pd.DataFrame(runs, index=["a", "b", "c"]))
    assert found == {"b": ["40% of the spots are out of focus, folded or inked"]}


def test_a_cohort_without_a_finished_slide(files, model, encoder, tmp_path):
    manifest = pd.DataFrame({"path": [str(files / "white.tiff")], "patient": ["P"]})
    ds.cohort.run(manifest, model=model, encoder=encoder, out=tmp_path / "out")
    text = text_of(ds.report_cohort(tmp_path / "out", tmp_path / "cohort.html"))
    assert "0 of 1 slide of 1 patient is predicted, 1 failed" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gene": "NOGENE"}, KeyError, "NOGENE"),
        ({"n": 0}, ValueError, "`n`"),
        ({"folder": "nothing"}, FileNotFoundError, r"no run table 'runs\.csv'.*`out` of `ds\.cohort\.run`"),
    ],
)
def test_bad_input(folder, tmp_path, options, error, message):
    given = {"folder": folder, "path": tmp_path / "cohort.html"} | options
    with pytest.raises(error, match=message):
        ds.report_cohort(given.pop("folder"), given.pop("path"), **given)
    assert not (tmp_path / "cohort.html").exists()


def test_profiles_unlike_the_others_are_outliers():
    from anndata import AnnData

    X = np.random.default_rng(0).normal(1, 0.05, size=(12, 40)).astype(np.float32)
    X[3] += 0.5
    names = [f"s{i}" for i in range(12)]
    runs = pd.DataFrame({"status": "done", "error": "", "ood_share": 0.1, "spots": 100}, index=names)
    scores = profile_scores(AnnData(X, obs=pd.DataFrame(index=names)), runs)
    assert list(needs_attention(runs, scores)) == ["s3"]
    distance = np.abs(X - np.median(X, axis=0)).mean(axis=1)
    spread = np.median(np.abs(distance - np.median(distance)))
    assert scores["s3"] == pytest.approx(0.6745 * (distance[3] - np.median(distance)) / spread)
    assert profile_scores(AnnData(X[:4]), runs).isna().all()


def test_names_and_errors_of_the_run_table_are_text(folder):
    runs = read_runs(folder)
    assert runs.loc["P1_S1", "error"] == ""
    assert gather(folder, None, 5)["counts"] == {"done": 2, "failed": 1}


def test_artifacts_and_training_slides_are_told(model, files, encoder, tmp_path):
    manifest = pd.DataFrame({"path": [str(files / "P1_S1.tiff")], "patient": ["P1"]})
    out = tmp_path / "out"
    runs = ds.cohort.run(manifest, model=model, encoder=encoder, out=out, artifacts="flag")
    share = runs["artifact_share"].iloc[0]
    page = ds.report_cohort(out, tmp_path / "flagged.html")
    assert f"{share:.0%}".replace("%", " %") + " with artifacts" in text_of(page)
    assert "<th>artifacts</th>" in page.read_text(encoding="utf-8")
    assert "<th>z-score of its mean</th>" not in page.read_text(encoding="utf-8")
    assert "The model learned from 1 slide drawn here" in text_of(page)


def test_artifacts_that_nobody_looked_for_are_no_zeros(folder, tmp_path):
    page = ds.report_cohort(folder, tmp_path / "cohort.html")
    assert "did not look for spots that are out of focus" in text_of(page)
    assert "<th>artifacts</th>" not in page.read_text(encoding="utf-8")
