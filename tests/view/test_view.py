import re

import geopandas as gpd
import numpy as np
import pytest
import shapely
from PIL import Image
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._view import genes, pyramid
from deepspot.pl._map.panel import GENE_SPAN, limits
from deepspot.pl._map.values import measured_values


def add_cells(sdata, add_table):
    """Octagons around the spots, with a prediction."""
    spots = sdata.shapes["spots"]
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    around = np.column_stack([np.cos(angle), np.sin(angle)])
    centers = shapely.get_coordinates(spots.geometry)
    outlines = gpd.GeoDataFrame(geometry=shapely.polygons(centers[:, None] + 20 * around), index=spots.index)
    sdata.shapes["cells"] = ShapesModel.parse(outlines, transformations=get_transformation(spots, get_all=True))
    values = np.linspace(0, 2, len(spots))[:, None]
    add_table(sdata, values, ["UP"], "deepspot_cells", shapes_key="cells")
    return shapely.get_coordinates(outlines.geometry.iloc[7])[:-1]


def test_values_are_within_half_a_step(predicted, tmp_path, read_page):
    page = read_page(ds.view(predicted, tmp_path / "view.html"))
    table = predicted.tables["deepspot_spots"]
    assert page.facts["genes"] == ["UP", "<img src=x onerror=alert(1)>", "FLAT", "NEW"]  # by expected r
    for gene in table.var_names:
        values, half = page.values("predicted", gene)
        truth = table[:, gene].X.ravel()
        assert np.array_equal(np.isnan(values), np.isnan(truth))
        assert np.nanmax(np.abs(values - truth)) <= 1.001 * half + 1e-6
    truth = measured_values(predicted, "spots", "table", ["UP"])[:, 0]
    values, half = page.values("measured", "UP")
    assert np.abs(values - truth).max() <= 1.001 * half + 1e-6
    measured = page.facts["layers"][0]
    assert measured["key"] == "measured"
    assert measured["low"][3] is None  # NEW was not measured


def test_color_scales_are_those_of_the_maps(predicted, tmp_path, read_page):
    page = read_page(ds.view(predicted, tmp_path / "view.html", genes=["UP"]))
    layer = page.facts["layers"][1]
    values = predicted.tables["deepspot_spots"][:, "UP"].X.ravel()
    assert layer["limits"][0] == pytest.approx(limits(values, GENE_SPAN), rel=1e-4)
    measured = measured_values(predicted, "spots", "table", ["UP"])[:, 0]
    assert page.facts["difference"][0] == pytest.approx(np.nanquantile(np.abs(values - measured), 0.99), rel=1e-4)
    both = np.isfinite(values)
    assert page.facts["agreement"][0] == pytest.approx(np.corrcoef(values[both], measured[both])[0, 1], abs=1e-4)


def test_places_doubts_and_groups(predicted, tmp_path, read_page):
    page = read_page(ds.view(predicted, tmp_path / "view.html"))
    xy = page.array("centers", np.float32).reshape(-1, 2)
    mpp = page.facts["image"]["mpp"]
    assert np.allclose(xy, shapely.get_coordinates(predicted.shapes["spots"].geometry) / mpp, atol=0.01)
    assert page.facts["shapes"] == {"kind": "circle", "diameter": pytest.approx(55 / mpp)}
    table = predicted.tables["deepspot_spots"]
    assert page.array("ood", np.uint8).tolist() == table.obs["ood"].astype(int).tolist()
    assert np.allclose(page.array("ood-scores", np.float32), table.obs["ood_score"])
    assert page.array("groups", np.uint8).tolist() == table.obs["annotation"].cat.codes.tolist()
    assert page.facts["groups"]["counts"] == [15, 15]
    for rings, anchor in zip(page.facts["groups"]["outlines"], page.facts["groups"]["anchors"], strict=True):
        area = shapely.union_all([shapely.Polygon(ring) for ring in rings])
        assert area.contains(shapely.Point(anchor[:2]))
    tumor, other = (shapely.Polygon(rings[0]) for rings in page.facts["groups"]["outlines"])
    assert tumor.intersection(other).area < 1  # a common line


def test_polygons_are_kept(predicted, add_table, tmp_path, read_page):
    corners = add_cells(predicted, add_table)
    page = read_page(ds.view(predicted, tmp_path / "view.html", shapes_key="cells"))
    owner, counts = page.array("ring-owners", np.uint32), page.array("ring-counts", np.uint16)
    steps = page.array("ring-steps", np.int16).reshape(-1, 2)
    assert owner.tolist() == list(range(30))
    first = counts[:7].sum()
    unit, mpp = page.facts["shapes"]["unit"], page.facts["image"]["mpp"]
    center = page.array("centers", np.float32).reshape(-1, 2)[7]
    ring = center + unit * np.cumsum(steps[first : first + counts[7]], axis=0)
    assert np.abs(ring - corners / mpp).max() <= unit
    assert page.facts["noun"]["one"] == "cell"


def test_corrected_genes(predicted, add_table, tmp_path, read_page):
    n = len(predicted.shapes["spots"])
    layers = {"predicted": np.full((n, 2), 1.0), "weight": np.full((n, 2), 0.25)}
    add_table(predicted, np.full((n, 2), 2.0), ["UP", "FLAT"], "table_corrected", kind="corrected", layers=layers)
    page = read_page(ds.view(predicted, tmp_path / "view.html", genes=["UP"]))
    assert [layer["key"] for layer in page.facts["layers"]] == ["measured", "predicted", "corrected"]
    assert page.facts["weight"] == [0.25]
    assert np.all(page.values("corrected", "UP")[0] == 2.0)


def test_measured_genes_alone(slide, tmp_path, read_page):
    page = read_page(ds.view(slide, tmp_path / "view.html", genes=3))
    assert [choice["key"] for choice in page.facts["choices"]] == ["measured"]
    counts = slide.tables["table"].X.sum(axis=0)
    assert page.facts["genes"][0] == slide.tables["table"].var_names[np.asarray(counts).argmax()]
    assert "medical device" in page.text


def test_text_of_the_data_is_escaped(predicted, tmp_path, read_page):
    predicted.shapes["spots"].index = predicted.shapes["spots"].index  # names of spots are compressed
    path = ds.view(predicted, tmp_path / "view.html", title="<i>title</i> & more")
    page = read_page(path)
    assert "<i>title" not in page.text
    assert "<b>model" not in page.text
    outside = re.sub(r"<script.*?</script>", "", page.text, flags=re.S)
    assert "onerror" not in outside
    assert "alert(2)" not in outside
    assert page.facts["groups"]["labels"] == ["tumor", "</script><script>alert(2)</script>"]
    # One script runs, and the page allows no other and no address.
    assert len(re.findall(r"<script(?! type=)", page.text)) == 1
    assert re.search(
        r"default-src 'none'; script-src 'sha256-[\w+/=]{44}'; style-src 'unsafe-inline'; img-src blob: data:",
        page.text,
    )
    assert not re.findall(r"(?:src|href)=[\"']?(?!x )", outside)


def test_the_same_slide_gives_the_same_file(predicted, tmp_path):
    first, second = (ds.view(predicted, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_the_object_is_not_changed(predicted, tmp_path):
    before = {key: [list(slot) for slot in (t.obs, t.var, t.uns, t.obsm)] for key, t in predicted.tables.items()}
    ds.view(predicted, tmp_path / "view.html")
    assert before == {
        key: [list(slot) for slot in (t.obs, t.var, t.uns, t.obsm)] for key, t in predicted.tables.items()
    }


def test_values_that_do_not_fit_are_an_error(predicted, tmp_path):
    with pytest.raises(ds.errors.InputError, match=r"values of 4 genes in 30 spots take .* `max_mb` leaves 0 MB"):
        ds.view(predicted, tmp_path / "view.html", max_mb=0.1)
    assert not list(tmp_path.iterdir())


def test_many_genes_are_refused_before_all_are_read(slide, add_table, tmp_path, monkeypatch):
    n, k = len(slide.shapes["spots"]), 3000
    add_table(slide, np.random.default_rng(0).random((n, k)), [f"GENE{each}" for each in range(k)])
    del slide.tables["table"]
    chunks = []
    original = genes.predicted_values
    monkeypatch.setattr(genes, "predicted_values", lambda *a, **more: chunks.append(1) or original(*a, **more))
    with pytest.raises(ds.errors.InputError, match=r"values of 3,000 genes in 30 spots take about 0\.2\d") as error:
        ds.view(slide, tmp_path / "view.html", genes=k, max_mb=0.65)
    assert 1 <= len(chunks) < 20
    fit = int(re.search(r"about ([\d,]+) genes\.", str(error.value))[1].replace(",", ""))
    with pytest.raises(ds.errors.InputError, match="genes"):
        ds.view(slide, tmp_path / "view.html", genes=fit + 100, max_mb=0.65)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 128 px, and an image of which the finest level does not fit into a page of 0.75 MB."""
    monkeypatch.setattr(pyramid, "TILE", 128)
    return {"genes": 2, "max_mb": 0.75}


def test_what_does_not_fit_is_in_a_folder(predicted, tmp_path, read_page, small_tiles, log):
    page = read_page(ds.view(predicted, tmp_path / "view.html", **small_tiles))
    image = page.facts["image"]
    assert image["folder"] == "view_tiles"
    assert [level["files"] is None for level in image["levels"]] == sorted(
        (level["files"] is None for level in image["levels"]), reverse=True
    )
    finest = image["levels"][-1]
    assert finest["factor"] == 1
    tiles = sorted((tmp_path / "view_tiles" / finest["files"]).iterdir())
    assert len(tiles) == finest["columns"] * finest["rows"]
    pixels = np.asarray(predicted.images["P1_S1_image"].data)[:, 128:256, 256:384].transpose(1, 2, 0).astype(float)
    shown = np.asarray(Image.open(tmp_path / "view_tiles" / finest["files"] / "2-1.jpg"))
    assert np.abs(shown - pixels).mean() < 6
    assert (tmp_path / "view.html").stat().st_size < 0.75e6
    assert "Move them together" in "\n".join(log)
    assert "'self' file:" in page.text
    # Again, then into one file.
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ds.view(predicted, tmp_path / "view.html", **small_tiles)
    (tmp_path / "view.html").unlink()
    with pytest.raises(FileExistsError, match=r"folder .*view_tiles"):
        ds.view(predicted, tmp_path / "view.html", **small_tiles)
    ds.view(predicted, tmp_path / "view.html", overwrite=True, **small_tiles)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    page = read_page(ds.view(predicted, tmp_path / "view.html", overwrite=True, folder=False, **small_tiles))
    assert [path.name for path in tmp_path.iterdir()] == ["view.html"]
    assert "`folder=False`" in "\n".join(log)
    assert page.facts["image"]["levels"][-1]["factor"] > 1
    assert "file:" not in page.text.partition("<style>")[0]


def test_a_folder_of_the_user_is_kept(predicted, tmp_path, small_tiles):
    (tmp_path / "view_tiles").mkdir()
    (tmp_path / "view_tiles" / "mine.txt").write_text("mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match="Choose another name"):
            ds.view(predicted, tmp_path / "view.html", **small_tiles, **options)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.txt"]


def test_an_error_while_tiles_are_written_leaves_nothing(predicted, tmp_path, small_tiles, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        ds.view(predicted, tmp_path / "view.html", **small_tiles)
    assert not list(tmp_path.iterdir())


def test_wrong_input_is_refused_before_the_work(predicted, tmp_path):
    with pytest.raises(KeyError, match="MISSING"):
        ds.view(predicted, tmp_path / "view.html", genes=["MISSING"])
    with pytest.raises(KeyError, match="nothing"):
        ds.view(predicted, tmp_path / "view.html", groupby="nothing")
    with pytest.raises(ValueError, match="max_mb"):
        ds.view(predicted, tmp_path / "view.html", max_mb=-1)
    with pytest.raises(ValueError, match="genes"):
        ds.view(predicted, tmp_path / "view.html", genes=0)
    del predicted.tables["deepspot_spots"], predicted.tables["table"]
    with pytest.raises(KeyError, match=r"ds\.tl\.predict"):
        ds.view(predicted, tmp_path / "view.html")
    (tmp_path / "view.html").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        ds.view(predicted, tmp_path / "view.html")
