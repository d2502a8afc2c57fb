import gzip
import json
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely import LineString, Point, Polygon, box
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, set_transformation

import deepspot as ds
from deepspot._sdata.tables import labels_of

WHITE = np.full((100, 100, 3), 255, np.uint8)
XY = np.array([[10.0, 10], [30, 10], [50, 10], [70, 10], [90, 90]])
SPOTS = ["e", "d", "c", "b", "a"]
LEFT, MIDDLE = box(0, 0, 40, 40), box(40, 0, 60, 40)


def frame(*polygons, **columns):
    return gpd.GeoDataFrame(columns, geometry=list(polygons))


@pytest.fixture
def spots(slide_of):
    return slide_of(WHITE, XY, index=SPOTS)


@pytest.fixture
def drawn():
    return frame(LEFT, MIDDLE, name=["tumor", "stroma"])


def feature(polygon, **properties):
    properties = {"objectType": "annotation"} | properties
    return {"type": "Feature", "id": "some-uuid", "geometry": polygon.__geo_interface__, "properties": properties}


@pytest.fixture
def qupath(tmp_path):
    """A file of QuPath: classes with colors, objects without a class, points, and nested annotations."""
    features = [
        feature(LEFT, classification={"name": "Tumor", "color": [200, 0, 0]}, isLocked=False),
        feature(MIDDLE, classification={"name": "Stroma", "color": [150, 200, 150]}, name="my note"),
        feature(box(20, 0, 36, 36), classification={"name": "Immune cells", "colorRGB": -6250336}),
        feature(box(0, 0, 100, 100)),
        feature(Point(10, 10), classification={"name": "Tumor", "color": [200, 0, 0]}),
    ]

    def write(content=None, name="regions.geojson"):
        path = tmp_path / name
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features} if content is None else content))
        return path

    write.features = features
    return write


def test_spots_get_the_label_of_the_region_that_covers_them(spots, drawn, log):
    assert ds.pp.annotate(spots, drawn) is None
    column = spots["spots"]["annotation"]
    assert column.index.tolist() == SPOTS
    assert column.astype(object).where(column.notna(), None).tolist() == ["tumor", "tumor", "stroma", None, None]
    assert list(column.cat.categories) == ["tumor", "stroma"]
    assert log == [
        "Labeled 3 of 5 spots: tumor 2, stroma 1. Added 'annotation' to sdata.shapes['spots'] and obs of the tables []."
    ]


def test_on_the_outline_is_inside_and_the_first_of_equal_regions_wins(spots):
    ds.pp.annotate(spots, frame(box(0, 0, 30, 20), box(30, 0, 60, 20), name=["a", "b"]))
    assert spots["spots"]["annotation"].tolist()[:3] == ["a", "a", "b"]


def test_the_smallest_of_nested_regions_wins_in_any_order(spots):
    polygons, names = [box(0, 0, 100, 40), box(20, 0, 60, 40), box(25, 5, 35, 15)], ["tissue", "tumor", "nest"]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        ds.pp.annotate(spots, frame(*[polygons[i] for i in order], name=[names[i] for i in order]), overwrite=True)
        assert spots["spots"]["annotation"].tolist()[:4] == ["tissue", "nest", "tumor", "tissue"]


def test_unlabeled_spots_can_have_a_name(spots, drawn):
    ds.pp.annotate(spots, drawn, unlabeled="elsewhere")
    assert spots["spots"]["annotation"].tolist() == ["tumor", "tumor", "stroma", "elsewhere", "elsewhere"]


def test_qupath_geojson(slide, qupath, log):
    order = np.random.default_rng(0).permutation(slide["table"].n_obs)  # rows are matched by instance
    slide.tables["table"] = slide["table"][order].copy()
    tumor = feature(box(0, 0, 400, 2000), classification={"name": "Tumor", "color": [200, 0, 0]})
    stroma = feature(box(400, 0, 2000, 2000), classification={"name": "Stroma", "color": [150, 200, 150]})
    ds.pp.annotate(slide, qupath([tumor, stroma, *qupath.features[3:]]))
    centers = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    expected = np.where(centers[:, 0] < 400, "Tumor", "Stroma")
    assert slide["spots"]["annotation"].tolist() == expected.tolist()
    table = slide["table"]
    by_spot = dict(zip(slide["spots"].index, expected, strict=True))
    assert table.obs["annotation"].tolist() == [by_spot[spot] for spot in table.obs["spot_id"]]
    assert list(table.uns["annotation_colors"]) == ["#c80000", "#96c896"]
    assert log[-1].endswith("Left out regions: 1 without an area (points or lines) and 1 without a label.")


@pytest.mark.parametrize(("bare", "name"), [(False, "r.geojson"), (True, "r.geojson"), (True, "r.json")])
def test_every_kind_of_qupath_file(spots, qupath, bare, name):
    ds.pp.annotate(spots, str(qupath(qupath.features if bare else None, name=name)))
    assert spots["spots"]["annotation"].tolist()[:3] == ["Tumor", "Immune cells", "Stroma"]


@pytest.mark.parametrize("kind", ["utf-8-sig", "utf-16", "gz", "zip", "zip of macOS"])
def test_compressed_files_and_byte_order_marks(spots, qupath, tmp_path, kind):
    text, path = qupath().read_text(), tmp_path / "other.geojson"
    if kind == "gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind.startswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("regions.geojson", text)
            if kind != "zip":
                archive.writestr("__MACOSX/._regions.geojson", "Mac OS X")
    else:
        path.write_text(text, encoding=kind)
    ds.pp.annotate(spots, path)
    assert spots["spots"]["annotation"].tolist()[:3] == ["Tumor", "Immune cells", "Stroma"]


def test_archives_without_one_file(spots, qupath, tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.geojson", "b.geojson"):
            archive.writestr(name, qupath().read_text())
    with pytest.raises(
        ValueError, match=r"two.zip' must hold one GeoJSON file, but holds \['a.geojson', 'b.geojson'\]"
    ):
        ds.pp.annotate(spots, tmp_path / "two.zip")


@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b damaged",
        b"PK damaged",
        # A fixed time, since the content is the name of the test, which must be the same in every process.
        gzip.compress(b"[]" * 1000, mtime=0)[:-9],
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"type": "FeatureCollection", "features": null}',
        b'[{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}]',
        b'[{"type": "Feature", "properties": {}, "geometry": {"type": "Circle", "coordinates": [1, 1]}}]',
        b'[{"type": "Feature", "properties": {"name": "a"}, "geometry": null}]',
        b'[{"type": "Feature", "properties": {"name": "a"}}]',
        b"[1]",
        b"[]",
    ],
)
def test_files_that_are_no_regions(spots, tmp_path, content):
    (tmp_path / "bad.geojson").write_bytes(content)
    with pytest.raises(ds.errors.InputError):
        ds.pp.annotate(spots, tmp_path / "bad.geojson")


def test_classes_as_text_or_with_several_names(spots):
    classes = ['{"name": "Tumor", "color": [200, 0, 0]}', "{'no': json}", {"names": ["Tumor", "Positive"]}]
    ds.pp.annotate(spots, frame(LEFT, MIDDLE, box(60, 0, 80, 40), classification=classes))
    assert spots["spots"]["annotation"].tolist()[:4] == ["Tumor", "Tumor", "{'no': json}", "Tumor: Positive"]


@pytest.mark.parametrize("color", [[None] * 3, "red", [1, 2]])
def test_colors_that_cannot_be_read_are_ignored(spots, color):
    ds.pp.annotate(spots, frame(LEFT, classification=[{"name": "Tumor", "color": color, "names": 3}]))
    assert spots["spots"]["annotation"].tolist()[0] == "Tumor"


def test_coordinates_and_columns_are_checked(spots):
    with pytest.raises(ValueError, match="coordinates that are not finite"):
        ds.pp.annotate(spots, frame(Polygon([(0, 0), (np.inf, 0), (1, 1)]), name=["a"]))
    named = frame(LEFT, name=["a"])
    with pytest.raises(ValueError, match=r"several columns \['name'\]"):
        ds.pp.annotate(spots, pd.concat([named, named[["name"]]], axis=1))
    with pytest.raises(TypeError, match="or a GeoDataFrame, got DataFrame"):
        ds.pp.annotate(spots, pd.DataFrame({"geometry": [1]}))


def test_label_column_is_guessed_or_given(spots):
    both = frame(LEFT, MIDDLE, classification=[None, None], name=["n1", "n2"], grade=[1, 2])
    ds.pp.annotate(spots, both, key_added="by_name")
    ds.pp.annotate(spots, both, label_key="grade", key_added="by_grade")
    ds.pp.annotate(spots, both[["geometry"]], key_added="by_index")
    got = {key: spots["spots"][key].tolist()[0] for key in ("by_name", "by_grade", "by_index")}
    assert got == {"by_name": "n1", "by_grade": "1", "by_index": "0"}
    with pytest.raises(KeyError, match=r"Key `'stage'` not found in `columns of the regions`.*'grade'"):
        ds.pp.annotate(spots, both, label_key="stage")
    with pytest.raises(ValueError, match="Column 'classification' of the regions has no labels"):
        ds.pp.annotate(spots, both, label_key="classification")


def test_element_is_related_through_a_shared_coordinate_system(spots, drawn):
    turned = np.array([[0.0, -2, 7], [2, 0, 5], [0, 0, 1]])
    back = Affine(np.linalg.inv(turned), ("x", "y"), ("x", "y"))
    polygons = drawn.set_geometry(drawn.affine_transform([0, -2, 2, 0, 7, 5]))
    spots["regions"] = ShapesModel.parse(polygons, transformations={"global": back})
    ds.pp.annotate(spots, "regions")
    assert spots["spots"]["annotation"].tolist()[:3] == ["tumor", "tumor", "stroma"]


def test_element_that_cannot_be_related(spots, drawn):
    spots["regions"] = ShapesModel.parse(drawn, transformations={"other": Identity()})
    with pytest.raises(ValueError, match=r"Shapes 'regions' \(\['other'\]\) and shapes 'spots' .* share no coordinate"):
        ds.pp.annotate(spots, "regions")
    set_transformation(spots["regions"], {"global": Identity(), "second": Scale([2, 2], ("x", "y"))}, set_all=True)
    set_transformation(spots["spots"], {"global": Identity(), "second": Identity()}, set_all=True)
    with pytest.raises(ValueError, match=r"apart in shapes 'regions'. Choose one with `coordinate_system=`"):
        ds.pp.annotate(spots, "regions")
    ds.pp.annotate(spots, "regions", coordinate_system="global")
    assert spots["spots"]["annotation"].notna().sum() == 3


def test_pixels_belong_to_the_image(slide_of, drawn):
    """Coordinates of a file are pixels of the image, whatever its transformation."""
    sdata = slide_of(WHITE, XY * 2 + 7, image_to={"global": [[2, 0, 7], [0, 2, 7], [0, 0, 1]]})
    ds.pp.annotate(sdata, drawn)
    assert sdata["spots"]["annotation"].tolist()[:3] == ["tumor", "tumor", "stroma"]


@pytest.mark.parametrize("change", ["half", "crop"])
def test_pixels_belong_to_the_slide_of_a_changed_image(slide, change, tmp_path):
    """QuPath drew on the full-resolution slide, of which the object has a smaller copy or a part."""
    adata = slide["table"].copy()
    adata.obs = adata.obs.drop(columns=["region", "spot_id"], errors="ignore")
    image = slide["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    known = {"mpp": 1.0, "diameter_um": 55, "name": "half"}
    if change == "half":
        sdata = ds.io.from_anndata(adata, image[::2, ::2], image_scale=0.5, **known)
    else:
        sdata = ds.io.from_anndata(adata, image, **known)
        low, high = [100, 50], [image.shape[1], image.shape[0]]
        sdata = sdata.query.bounding_box(["x", "y"], low, high, target_coordinate_system="global")
    x = sdata["spots"].geometry.x.to_numpy()
    drawn = frame(box(-1, -1, 400, 1e6), box(400, -1, 1e6, 1e6), name=["left", "right"])
    sdata.write(tmp_path / "a.zarr")
    for key, of in {"memory": sdata, "disk": read_zarr(tmp_path / "a.zarr")}.items():
        ds.pp.annotate(of, drawn, key_added=key)
        assert of["spots"][key].tolist() == np.where(x < 400, "left", "right").tolist()
    if change == "half":
        ds.pp.annotate(sdata, drawn, image_key="half_image", key_added="named")
        assert sdata["spots"]["named"].tolist() == sdata["spots"]["memory"].tolist()


def test_invalid_outlines_are_repaired(spots):
    bow_tie = Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])  # its two wings: left and right
    drawn = frame(bow_tie, MIDDLE, name=["bow tie", "stroma"]).set_crs("EPSG:4326")  # as geopandas reads any GeoJSON
    ds.pp.annotate(spots, drawn)
    assert spots["spots"]["annotation"].tolist()[:3] == ["bow tie", "bow tie", "stroma"]


def test_no_labeled_polygon(spots):
    with pytest.raises(ValueError, match=r"no labeled polygon among the 2 regions: 1 without an area.*and 1 with"):
        ds.pp.annotate(spots, frame(LineString([(0, 0), (9, 9)]), LEFT, name=["line", None]))


def test_other_coordinates_show_both_extents(spots, drawn):
    far = drawn.set_geometry(drawn.translate(1000, 2000))
    message = (
        r"No spot of 'spots' is inside a region.*spots span x 10 to 90, y 10 to 90, and the regions x 1,000 to "
        r"1,060, y 2,000 to 2,040.*full-resolution"
    )
    with pytest.raises(ValueError, match=message):
        ds.pp.annotate(spots, far)
    assert "annotation" not in spots["spots"]


def test_existing_columns_are_kept(slide, qupath):
    everything = frame(box(-1e6, -1e6, 1e6, 1e6), name=["all"])
    slide["table"].obs["annotation"] = "mine"
    with pytest.raises(ValueError, match=r"'annotation' exists already: \[\"obs of sdata.tables\['table'\]\"\].*key_"):
        ds.pp.annotate(slide, everything)
    assert "annotation" not in slide["spots"]
    ds.pp.annotate(slide, everything, overwrite=True)
    assert set(slide["table"].obs["annotation"]) == set(slide["spots"]["annotation"]) == {"all"}
    with pytest.raises(ValueError, match=r"exists already: \[\"sdata.shapes\['spots'\]\", \"obs of"):
        ds.pp.annotate(slide, everything)
    with pytest.raises(ValueError, match="cannot be a name"):
        ds.pp.annotate(slide, everything, key_added="my labels!")
    assert "my labels!" not in slide["spots"]


def test_missing_input(spots, tmp_path):
    with pytest.raises(KeyError, match=r"Key `'regions'` not found in `sdata.shapes`. Available keys: \['spots'\]"):
        ds.pp.annotate(spots, "regions")
    with pytest.raises(FileNotFoundError, match=r"no file '.*missing.geojson'"):
        ds.pp.annotate(spots, tmp_path / "missing.geojson")
    (tmp_path / "broken.geojson").write_text('{"type": ')
    with pytest.raises(ValueError, match=r"broken.geojson' is not GeoJSON.*Export objects as GeoJSON"):
        ds.pp.annotate(spots, tmp_path / "broken.geojson")
    with pytest.raises(TypeError, match="or a GeoDataFrame, got DataFrame"):
        ds.pp.annotate(spots, pd.DataFrame({"a": [1]}))


def test_survives_writing(slide, tmp_path):
    left = frame(box(0, 0, 400, 2000), name=["left"])
    slide["regions"] = ShapesModel.parse(left, transformations={"global": Identity()})
    ds.pp.annotate(slide, "regions", shapes_key="spots", key_added="from_element")
    colors = {"classification": [{"name": "Tumor", "color": [1, 2, 255]}]}
    ds.pp.annotate(slide, frame(box(0, 0, 400, 2000), **colors), shapes_key="spots", unlabeled="other")
    slide.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")
    for key in ("from_element", "annotation"):
        pd.testing.assert_series_equal(
            back["spots"][key].astype(object), slide["spots"][key].astype(object), check_dtype=False
        )
        assert back["table"].obs[key].isna().tolist() == slide["table"].obs[key].isna().tolist()
        assert isinstance(back["table"].obs[key].dtype, pd.CategoricalDtype)
        assert isinstance(back["spots"][key].dtype, pd.CategoricalDtype)
    assert back["spots"]["from_element"].isna().sum() > 0
    assert list(back["table"].uns["annotation_colors"]) == ["#0102ff", "#d3d3d3"]


def test_tables_that_hold_several_slides(slides):
    """Annotating the second region of a table keeps the labels of the first one."""
    from anndata import concat
    from spatialdata.models import TableModel

    first, second = slides["P1_S1"], slides["P2_S1"]
    both = concat([first["table"], second["table"]], keys=["a", "b"], index_unique="_")
    half = first["table"].n_obs
    both.obs["region"] = pd.Categorical(["a"] * half + ["b"] * (both.n_obs - half))
    joint = SpatialData(shapes={"a": first["spots"], "b": second["spots"]}, images={"he": first["P1_S1_image"]})
    joint["table"] = TableModel.parse(both, region=["a", "b"], region_key="region", instance_key="spot_id")
    for key, label in {"a": "one", "b": "two"}.items():
        ds.pp.annotate(joint, frame(box(-1e6, -1e6, 1e6, 1e6), name=[label]), shapes_key=key)
    assert joint["table"].obs["annotation"].tolist() == ["one"] * half + ["two"] * (both.n_obs - half)
    assert "two" not in joint["a"]["annotation"].cat.categories
    assert labels_of(joint, "table", "annotation").cat.categories.tolist() == ["one", "two"]


@pytest.mark.parametrize(
    "key",
    [
        "geometry",
        "radius",
        "Radius",
        "diameter_um",
        "array_row",
        "region",
        "SPOT_ID",
        "index_of_obs",
        "zarr.json",
        "a" * 201,
        "a/b",
        "",
        1,
    ],
)
def test_names_that_would_break_the_store_are_refused(slide, key):
    everything = frame(box(-1e6, -1e6, 1e6, 1e6), name=["all"])
    slide.tables["table"].obs.index.name = "index_of_obs"
    before = slide.shapes["spots"].copy(), slide.tables["table"].obs.copy()
    with pytest.raises(
        (ValueError, TypeError),
        match=r"Column '|name of the index|differ by more than case|cannot be a name|more than 200 bytes|must be text",
    ):
        ds.pp.annotate(slide, everything, key_added=key, overwrite=True)
    pd.testing.assert_frame_equal(slide.shapes["spots"], before[0])
    pd.testing.assert_frame_equal(slide.tables["table"].obs, before[1])


def test_summaries_by_region_are_those_of_scanpy(slide):
    import scanpy as sc

    ds.pp.annotate(slide, frame(box(0, 0, 400, 2000), box(400, 0, 2000, 2000), name=["left", "right"]))
    means = sc.get.aggregate(slide["table"], by="annotation", func=["mean"])
    left = (slide["table"].obs["annotation"] == "left").to_numpy()
    np.testing.assert_allclose(means["left"].layers["mean"][0], np.asarray(slide["table"].X[left].mean(axis=0)).ravel())
    assert means.obs_names.tolist() == ["left", "right"]


def test_subspots_are_not_labeled_by_default(slide):
    slide.shapes["spots_subspots"] = slide.shapes["spots"].assign(parent=1)
    slide.tables["fine"] = slide.tables["table"].copy()
    slide.tables["fine"].obs["region"] = pd.Categorical(["spots_subspots"] * slide.tables["fine"].n_obs)
    slide.tables["fine"].uns["spatialdata_attrs"] = slide.tables["table"].uns["spatialdata_attrs"] | {
        "region": "spots_subspots"
    }
    ds.pp.annotate(slide, frame(box(-1e5, -1e5, 1e5, 1e5), name=["all"]))
    assert "annotation" in slide.shapes["spots"]
    assert "annotation" not in slide.shapes["spots_subspots"]
