import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot._core.keys import subspots_name
from deepspot._report.contents import find_contents

VOID = {"meta", "img", "br", "hr", "link", "input"}
GENES = ["UP", "FLAT", "<b>&amp;"]


class Page(HTMLParser):
    """Reads a page, and fails on tags that do not close or that close something else."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.addresses, self.headings, self.text, self.ids = [], [], [], [], [], []
        self.tags = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images.append(attrs["src"])
            assert attrs["alt"]
        self.addresses += [attrs[name] for name in ("href", "src", "action", "data", "poster") if name in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        elif data.strip():
            self.text.append(data.strip())
            if self.open[-1] == "h2":
                self.headings.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())  # lines break anywhere, as in a browser


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def predicted(slide, add_table):
    """A slide with a prediction and the entries that `ds.tl.predict` adds."""
    rng = np.random.default_rng(0)
    values = rng.normal(1, 0.1, (30, 3)) + np.repeat([1, 0], 15)[:, None] * [1, 0, 0]
    add_table(slide, values, GENES, obsm={"spatial": np.asarray(slide.tables["table"].obsm["spatial"])})
    table = slide.tables["deepspot_spots"]
    table.var["expected_r"], table.var["expected_r_low"] = [0.61, 0.02, 0.3], [0.5, -0.4, np.nan]
    table.var["expected_r_high"] = [0.7, 0.4, np.nan]
    table.obs["ood_score"] = np.linspace(0.2, 1.1, 30).astype(np.float32)
    table.obs["ood"] = table.obs["ood_score"] > 1
    made = {"model": "<script>alert(1)</script>", "fingerprint": "abc", "preset": "default", "gate": "r 0.2 & more"}
    made |= {"expected_r_from": "3 patients", "license": "CC BY 4.0", "tissue": "breast <test>", "depth": "all"}
    table.uns["deepspot"] |= made | {"versions": {"torch": "2.0"}, "features": "none"}
    return slide


def add_results(sdata, key="deepspot_spots"):
    table = sdata.tables[key]
    table.obs["annotation"] = pd.Categorical(np.repeat(["tumor", "stroma <x>"], 15), ["tumor", "stroma <x>"])
    found = {"group": ["tumor"] * 2 + ["stroma <x>"], "gene": ["UP", "FLAT", "UP"], "logfoldchange": [1.0, 0.1, -1.0]}
    table.uns["markers"] = pd.DataFrame(found | {"p_block_adj": np.nan, "significant": [True, False, False]})
    table.uns["deepspot_markers"] = {"groupby": "annotation", "test": "wilcoxon", "many": list(range(500))}
    table.uns["enrichment"] = pd.DataFrame(
        {"group": ["tumor"], "term": ["A & B"], "n_overlap": [1], "n_set": [2], "p": [0.01], "p_adj": [0.02]}
    )
    table.obsm["score_mlm"] = pd.DataFrame({"MAPK": np.linspace(-1, 1, 30)}, index=table.obs_names)


def add_correction(sdata, add_table):
    n = len(sdata.shapes["spots"])
    layers = {"measured": np.ones((n, 3)), "corrected": np.ones((n, 3)), "change": np.full((n, 3), -0.5)}
    layers |= {"predicted": np.tile([1.0, 1.0, np.nan], (n, 1)), "weight": np.tile([0.25, 0.75, 1.0], (n, 1))}
    add_table(sdata, np.ones((n, 3)), ["UP", "FLAT", "OTHER"], "table_corrected", kind="corrected", layers=layers)
    sdata.tables["table_corrected"].uns["deepspot"] |= {"method": "posterior", "registration": "Aligned: fine"}


@pytest.fixture
def complete(predicted, add_table):
    add_results(predicted)
    add_correction(predicted, add_table)
    return predicted


SECTIONS = """How far to trust this prediction / The slide / Maps of genes / Groups of spots / Gene sets / Pathways /
Correction of the measured genes / Words in this report / Technical section"""
EXPECTED = """not a medical device / µm in diameter / breast <test> / CC BY 4.0 / r 0.2 & more /
4 of 30 spots (13 %) look unlike / patients who were held out / UP: expected r 0.61 / UP (+1.00) /
verdict: usable as a pattern / Regions that were annotated on the slide / tumor 15 /
The only pathway that could be scored /
Registration of measured spots and image: Aligned: fine / 50 % for the median gene / Left as measured 1 gene /
0.50 mean absolute change / fingerprint abc / deepspot report x / torch 2.0 / resolution="subspot" /
groupby = annotation"""


def entries(sdata):
    return {key: [list(slot) for slot in (t.obs, t.var, t.uns, t.obsm)] for key, t in sdata.tables.items()}


@pytest.mark.slow
def test_reports_all_results_and_does_not_change_the_object(complete, tmp_path):
    import matplotlib.pyplot as plt

    before, figures = entries(complete), plt.get_fignums()
    path = ds.report(complete, tmp_path / "report.html", command="deepspot report x")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == tmp_path / "report.html"
    assert page.headings == SECTIONS.replace("\n", " ").split(" / ")
    # unusual spots, r; the slide twice; 3 genes with the tissue beside them, 2 of them corrected too; tiles; groups
    # beside the tissue; markers; sets of a group; a pathway beside the tissue; correction
    assert len(page.images) == 2 + 2 + 3 + 5 + 1 + 2 + 1 + 1 + 2 + 1
    for said in EXPECTED.replace("\n", " ").split(" / "):
        assert said in page.words, said
    assert "nan" not in page.words
    assert entries(complete) == before
    assert plt.get_fignums() == figures
    # One file without scripts or network.
    assert "script" not in page.tags
    assert all(image.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for image in page.images)
    links = {address.removeprefix("#") for address in page.addresses if not address.startswith("data:")}
    assert links <= set(page.ids)
    # Every section has a link, and each word is explained.
    assert {f"part{number}" for number in range(1, 10)} <= links
    assert {"word-spot", "word-r", "word-expected-r", "word-interval", "word-marker", "word-pathway-score"} <= links
    assert not re.search(r"ds\.|sdata|deepspot_spots", page.words.split("Technical section")[-2])
    assert not re.search(r"https?://", re.sub(r'src="[^"]+"', "", text))
    assert "<script>alert(1)</script>" in page.words  # as text


def nothing(sdata, add_table):
    del sdata.tables["deepspot_spots"]


def unmeasured(sdata, add_table):
    del sdata.tables["table"]


def bare(sdata, add_table):
    """Neither reliability nor unusual spots nor provenance, as from another program."""
    table = sdata.tables["deepspot_spots"]
    table.var, table.obs = table.var[[]], table.obs[["region", "spot_id"]]
    table.uns["deepspot"] = {"kind": "prediction"}


def corrected_only(sdata, add_table):
    add_correction(sdata, add_table)
    add_results(sdata, "table_corrected")
    del sdata.tables["deepspot_spots"], sdata.tables["table"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing, "No genes were predicted from its image."),
        (unmeasured, "No genes were measured on this slide"),
        (bare, "expected agreement of the genes was not measured"),
        (corrected_only, "genes corrected with the H&E image"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_missing_parts_are_left_out(change, said, predicted, add_table, tmp_path):
    change(predicted, add_table)
    page = read(ds.report(predicted, tmp_path / "report.html", genes=1))
    assert said in page.words
    assert "nan" not in page.words
    if change is not corrected_only:
        for call in ("ds.tl.markers", "ds.tl.enrich", "ds.tl.pathways", "ds.pp.annotate"):
            assert call in page.words
    if change is nothing:
        assert "ds.tl.predict(sdata, model)" in page.words
    if change is unmeasured:
        assert "ds.tl.correct" not in page.words


def test_a_failed_part_is_listed_and_the_rest_is_written(complete, tmp_path):
    complete.tables["table"].X = complete.tables["table"].X * 0.5
    complete.tables["deepspot_spots"].uns["enrichment"] = complete.tables["deepspot_spots"].uns["enrichment"][:0]
    page = read(ds.report(complete, tmp_path / "report.html", genes=1))
    assert "does not contain raw counts" in page.words
    assert "UP: expected r" in page.words  # drawn without the measured genes
    assert "No gene set contains a marker." in page.words
    assert "Pathways" in page.headings


def test_agreement_is_that_of_evaluate_or_computed_without_changes(predicted, tmp_path):
    genes = list(predicted.tables["table"].var_names[:3])
    predicted.tables["deepspot_spots"].var_names = genes
    before = set(predicted.tables["deepspot_spots"].var)
    first = read(ds.report(predicted, tmp_path / "1.html", genes=1))
    assert set(predicted.tables["deepspot_spots"].var) == before
    ds.tl.evaluate(predicted)
    again = read(ds.report(predicted, tmp_path / "2.html", genes=1))
    found = re.compile(r"half of the \d genes that were also measured have r = \S+ or more")
    assert found.search(first.words).group() == found.search(again.words).group()
    r = predicted.tables["deepspot_spots"].var["pearson"].median()
    assert f"r = {r:.2f}".replace("-", "−") in found.search(again.words).group()


def test_warns_of_an_out_of_distribution_slide_at_the_top(predicted, tmp_path):
    predicted.tables["deepspot_spots"].obs["ood"] = True
    words = read(ds.report(predicted, tmp_path / "report.html", genes=1)).words
    assert (
        "100 % of the spots look unlike the training tissue: do not trust this prediction." in words.split("Check")[0]
    )
    assert "so no gene is judged" in words
    assert "tissue, stain or scanner differs" in words
    assert "are expected" not in words


def test_no_expected_r_and_no_vivid_maps_where_many_spots_are_out_of_distribution(complete, tmp_path, monkeypatch):
    from deepspot._report import maps

    def draw(slide, values, label, *, cmap=None, **style):
        colors.append(cmap)
        return maps.draw_tissue(slide)

    colors = []
    monkeypatch.setattr(maps, "draw_values", draw)
    complete.tables["deepspot_spots"].obs["ood"] = np.arange(30) < 20
    del complete.tables["table_corrected"]
    words = read(ds.report(complete, tmp_path / "report.html", genes=2)).words
    assert colors == ["Greys"] * 3  # and the map of unusual spots
    assert not re.search(r"expected r \d", words)
    assert "67 % of the spots are unlike the training tissue. The maps are gray" in words
    for part in ("Images of spots by UP", "Maps of pathways", "Marker genes", "Gene sets"):
        assert f"{part} Not drawn, because many spots" in words


def test_recognizes_a_training_slide(predicted):
    slide = find_contents(predicted)
    assert slide.name == "P1_S1"
    assert slide.learned == "unknown"
    for name, spots, known in (("P1_S1", 29, True), ("P1_S1", 300, False), ("P2_S1", 30, False)):
        card = SimpleNamespace(slides=[SimpleNamespace(slide=name, spots=spots)])
        assert replace(slide, card=card).is_training_slide is known
    slide.prediction.uns["deepspot"]["training_slide"] = "yes"
    assert find_contents(predicted).is_training_slide


def test_genes_title_notes_and_groups_can_be_chosen(complete, tmp_path):
    complete.shapes["spots"]["side"] = pd.Categorical(np.repeat(["left", "right"], 15))
    notes = {"Finer maps": "not `today`", "More": "see <there>"}
    path = ds.report(complete, tmp_path / "report.html", genes=["FLAT"], title="No. 7 & 8", notes=notes, groupby="side")
    words = read(path).words
    assert "Slide No. 7 & 8: genes predicted" in words
    assert "These genes were selected by the user." in words
    assert "FLAT: expected r 0.02" in words
    assert "UP: expected" not in words
    assert "Groups of the column “side” that came with the slide" in words
    assert "not today" in words
    assert "see <there>" in words
    assert "<code>today</code>" in path.read_text()


def test_finer_maps_are_drawn_if_predicted(predicted, add_table, tmp_path):
    key = subspots_name("spots")
    predicted.shapes[key] = predicted.shapes["spots"].assign(parent=predicted.shapes["spots"].index)
    add_table(predicted, np.random.default_rng(0).normal(1, 1, (30, 3)), GENES, f"deepspot_{key}", shapes_key=key)
    words = read(ds.report(predicted, tmp_path / "report.html", genes=1)).words
    assert "UP at finer resolution" in words
    assert "resolution=" not in words


def test_cells_are_called_cells_and_have_no_expected_r_of_spots(predicted, add_table, tmp_path):
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    spots, table = predicted.shapes["spots"], predicted["deepspot_spots"]
    polygons = GeoDataFrame(geometry=spots.geometry.buffer(6), index=spots.index)
    systems = dict(get_transformation(spots, get_all=True))
    predicted.shapes["cells"] = ShapesModel.parse(polygons, transformations=systems)
    add_table(predicted, table.X, GENES, "deepspot_cells", shapes_key="cells")
    cells = predicted["deepspot_cells"]
    cells.var, cells.obs["ood"], cells.obs["ood_score"] = table.var, table.obs["ood"], table.obs["ood_score"]
    cells.uns["deepspot"] |= {"resolution": "cell"}
    words = read(ds.report(predicted, tmp_path / "cells.html", genes=1, shapes_key="cells")).words
    for said in ("in 30 cells by", "Cells 30, half of them wider than", "value is for one cell", "the marked cells"):
        assert said in words, said
    assert "No expected agreement is given: it was measured on whole spots." in words
    assert "UP: expected r unknown; span" in words
    assert not re.search(r"Spots|\d spots|of the spots|marked spots", words)
    words = read(ds.report(predicted, tmp_path / "spots.html", genes=1, shapes_key="spots")).words
    assert "UP: expected r 0.61" in words
    assert "UP at finer resolution" in words  # with the cells


def test_does_not_replace_a_file_or_leave_a_partial_one(predicted, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ds.report(predicted, path)
    assert path.read_text() == "precious"

    def full(self, target):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(OSError, match="disk full"):
            ds.report(predicted, path, genes=1, overwrite=True)
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    ds.report(predicted, str(path), genes=1, overwrite=True)
    assert read(path).headings


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("nowhere/report.html", {}, FileNotFoundError, "no folder"),
        ("", {}, FileExistsError, "is a folder"),
        ("r.html", {"genes": ["UPP"]}, KeyError, "Similar names: \\['UP'"),
        ("r.html", {"genes": None}, TypeError, "must be a name or several names, got NoneType"),
        ("r.html", {"genes": 0}, ValueError, "`genes` must be at least 1"),
        ("r.html", {"groupby": "regions"}, KeyError, "'regions'"),
        ("r.html", {"prediction_key": "other"}, KeyError, "'other'"),
        ("r.html", {"table_key": "other"}, KeyError, "'other'"),
        ("r.html", {"model": "her2st"}, ValueError, "did not predict"),
    ],
)
def test_invalid_input_raises(name, options, error, message, predicted, tmp_path):
    with pytest.raises(error, match=message):
        ds.report(predicted, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_renders_in_a_browser(complete, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium")
    path, picture = ds.report(complete, tmp_path / "report.html", genes=1), tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,4000"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    subprocess.run([chromium, *options, path.as_uri()], check=True, capture_output=True, timeout=120)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (4000, 1100, 3)
    ink = (np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60).any(axis=1)
    assert ink[:3500].mean() > 0.5  # a page full of text and figures
    purple = (pixels[..., 0] > pixels[..., 1] + 25) & (pixels[..., 2] > pixels[..., 1] + 25)
    assert purple.mean() > 0.01  # of the H&E image


def test_an_unchecked_registration_is_reported_as_missing(complete, tmp_path):
    complete.tables["table_corrected"].uns["deepspot"]["registration"] = "not checked"
    words = read(ds.report(complete, tmp_path / "report.html", genes=1)).words
    assert "Registration not checked The registration of measured spots and image was not checked." in words
    assert "ds.tl.check_alignment" in words


def test_groups_say_where_they_came_from_and_which_are_too_small(predicted, add_table, tmp_path):
    slide, table = find_contents(predicted), predicted.tables["deepspot_spots"]
    table.obs["leiden"] = pd.Categorical(["1"] * 27 + ["2"] * 2 + ["3"])
    assert slide.group_origin("annotation") == "Regions that were annotated on the slide"
    assert "not recorded" in slide.group_origin("leiden")
    predicted.tables["table"].uns["leiden"] = {}  # of scanpy
    assert slide.group_origin("leiden") == "Leiden clusters of the measured genes"
    table.uns["deepspot_leiden"] = {"of": "predicted genes"}
    assert slide.group_origin("leiden") == "Leiden clusters of the predicted genes"
    words = read(ds.report(predicted, tmp_path / "report.html", genes=1)).words
    assert "Group 2 has only 2 spots; Group 3 has only 1 spot. This is too few" in words
    assert "a cluster is tissue that looks similar" in words


def test_the_table_of_genes_has_a_verdict_and_is_saved_as_csv(predicted, tmp_path):
    from base64 import b64decode
    from io import BytesIO

    genes = list(predicted.tables["table"].var_names[:2])
    predicted.tables["deepspot_spots"].var_names = [*genes, "OTHER"]
    page = read(ds.report(predicted, tmp_path / "report.html", genes=1))
    (link,) = [address for address in page.addresses if address.startswith("data:text/csv;base64,")]
    table = pd.read_csv(BytesIO(b64decode(link.split(",")[1])), index_col="gene")
    assert list(table.index) == [genes[0], genes[1], "OTHER"]
    assert list(table["verdict"]) == ["usable as a pattern", "no evidence", "too few patients"]
    assert list(table["drawn"]) == [True, False, False]
    counts = predicted.tables["table"][:, genes[0]].X.toarray()
    assert table.loc[genes[0], "detected_share"] == pytest.approx((counts > 0).mean(), abs=1e-3)
    assert table["r_on_this_slide"].isna().tolist() == [False, False, True]
    assert "The maps of 1 of 3 genes are usable as a pattern." in page.words


def test_drawn_genes_are_among_those_with_a_high_expected_r(slide, add_table):
    rng = np.random.default_rng(0)
    add_table(slide, rng.normal(size=(30, 40)), [f"G{number}" for number in range(40)])
    slide.tables["deepspot_spots"].var["expected_r"] = np.linspace(0.5, 0.1, 40)
    chosen = find_contents(slide).choose_genes(4)
    assert len(set(chosen)) == 4
    assert all(int(gene[1:]) < 10 for gene in chosen)


@pytest.mark.parametrize(
    ("genes", "species"),
    [
        (["CD24", "HLA-DRA", "MT-CO1"], "human"),
        (["Cd24a", "H2-Aa", "Col1a1", "Actb", "Krt8", "Mbp"], "mouse"),
        (["ENSG00000272398", "ENSG00000012"], "human"),
        (["ENSMUSG00000047139"], "mouse"),
        (["eve", "ftz"], None),
    ],
)
def test_species_is_told_by_the_names_of_genes(genes, species):
    from deepspot._report.trust import species_of

    assert species_of(genes) == species


def test_says_that_species_differ(predicted, tmp_path):
    predicted.tables["deepspot_spots"].var_names = ["CD24", "KRT8", "MBP"]
    predicted.tables["table"].obs["species"] = "Mus musculus"
    words = read(ds.report(predicted, tmp_path / "report.html", genes=1)).words
    assert "Species do not trust The predicted genes are named as in: human." in words
    assert "states that the slide is of: mouse." in words


def test_titles_of_predicted_panels_say_that_the_model_learned_from_the_slide(complete, tmp_path):
    complete.tables["deepspot_spots"].uns["deepspot"]["training_slide"] = "yes"
    words = read(ds.report(complete, tmp_path / "report.html", genes=1)).words
    assert "UP, predicted (training slide)" in words
    assert "MAPK, predicted (training slide)" in words
    assert "The model was trained on this very slide" in words


def test_says_which_pathways_were_drawn(predicted, tmp_path):
    rng = np.random.default_rng(0)
    table = predicted.tables["deepspot_spots"]
    scores = rng.normal(size=(30, 20)) * np.arange(1, 21)
    table.obsm["score_mlm"] = pd.DataFrame(scores, table.obs_names, [f"P{number}" for number in range(20)])
    words = read(ds.report(predicted, tmp_path / "report.html", genes=1)).words
    assert "The 16 of 20 pathways whose scores vary most are drawn" in words
    assert "P19, predicted" in words
    assert "P0, predicted" not in words
