import errno

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import read_zarr
from spatialdata.models import ShapesModel

import deepspot as ds
from deepspot._core.keys import UNS
from deepspot._sdata.shapes import add_shapes
from deepspot._sdata.write import add_columns, add_table, check_new_key, check_writable, make_table
from deepspot._spatial.transforms import microns_per_pixel

XY = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])


@pytest.fixture
def tiny(slide_of):
    return slide_of(np.full((60, 60, 3), 255, np.uint8), XY, index=["A", "B", "C"])


def table(**fields):
    fields = {"X": np.ones((3, 2), np.float32), "instances": pd.Index(["A", "B", "C"], name="spot_id")} | fields
    X = fields.pop("X")
    return make_table(X, region="spots", region_key="region", instance_key="spot_id", **fields)


def assert_same_uns(a, b):
    assert set(a) == set(b)
    for key, value in a.items():
        if isinstance(value, dict):
            assert_same_uns(value, b[key])
        else:
            assert value == b[key]


def assert_same_table(a, b):
    np.testing.assert_array_equal(np.asarray(a.X), np.asarray(b.X))
    assert list(a.obs_names) == list(b.obs_names)
    assert list(a.var_names) == list(b.var_names)
    assert a.obs.astype(str).equals(b.obs.astype(str)[a.obs.columns])
    assert set(a.obsm) == set(b.obsm)
    for key, value in a.obsm.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(b.obsm[key]))
        assert np.asarray(value).dtype == np.asarray(b.obsm[key]).dtype
    assert set(a.layers) == set(b.layers)
    assert_same_uns(a.uns["deepspot"], b.uns["deepspot"])


def test_index_names_are_removed(tiny, tmp_path):
    obs = pd.DataFrame({"spot_id": [1, 2, 3]}, index=pd.Index(["A", "B", "C"], name="spot_id"))
    var = pd.DataFrame({"gene": [1, 2]}, index=pd.Index(["g", "h"], name="gene"))
    made = table(obs=obs, var=var)
    assert made.obs.index.name is None
    assert made.var.index.name is None
    add_table(tiny, "t", made, what="genes")
    tiny.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert list(again["t"].obs["spot_id"]) == ["A", "B", "C"]
    assert list(again["t"].var["gene"]) == [1, 2]


def test_writing_an_index_name_that_is_also_a_column_still_fails(tiny, tmp_path):
    """If this test fails, the problem is fixed upstream and `check_writable` need not remove index names."""
    made = table()
    made.obs.index.name = "spot_id"
    made.obs["spot_id"] = [7, 8, 9]
    tiny.tables["t"] = made
    with pytest.raises(ValueError, match="spot_id"):
        tiny.write(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "column",
    [
        pd.to_datetime(["2020", "2021", "2022"]),
        pd.array([1.5, None, 2.5], dtype="Float64"),
        [{"a": 1}, {}, {}],
    ],
)
def test_columns_that_cannot_be_written(column):
    obs = pd.DataFrame({"fine": [1, 2, 3], "odd": column}, index=["A", "B", "C"])
    with pytest.raises(TypeError, match=r"obs\['odd'\] cannot be written|unhashable"):
        table(obs=obs)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"var": pd.DataFrame({"when": pd.to_datetime(["2020", "2021"])}, index=["g", "h"])}, r"var\['when'\]"),
        ({"uns": {"fine": 1, "place": {"deep": {1, 2}}}}, r"uns\['place'\]"),
        ({"uns": {"path": {"a/b": 1}}}, r"uns\['path'\]"),
        (
            {"obsm": {"m": pd.DataFrame({"d": pd.to_datetime(["2020"] * 3)}, index=["A", "B", "C"])}},
            r"obsm\['m'\]",
        ),
    ],
)
def test_offender_is_named(fields, where):
    with pytest.raises(TypeError, match=rf"{where} cannot be written .*Convert it to text or numbers, or remove it"):
        table(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"obs": pd.DataFrame({"a b": [1, 2, 3]}, index=["A", "B", "C"])},
        {"obs": pd.DataFrame({"a": [1, 2, 3], "A": [1, 2, 3]}, index=["A", "B", "C"])},
        {"obsm": {"my scores": np.ones((3, 2))}},
        {"layers": {"a/b": np.ones((3, 2))}},
        {"uns": {"a b": 1}},
    ],
)
def test_names_inside_a_table_that_cannot_be_written(fields):
    with pytest.raises(ValueError, match=r"These names cannot be written.*`spatialdata\.sanitize_table\(adata\)`"):
        table(**fields)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("slot", "entry"),
    [
        ("obs", pd.DataFrame({LONG: [1, 2, 3]}, index=["A", "B", "C"])),
        ("obsm", {LONG: np.ones((3, 1))}),
        ("obsm", {"ä" * 150: np.ones((3, 1))}),
        ("varm", {LONG: np.ones((2, 1))}),
        ("layers", {LONG: np.ones((3, 2))}),
        ("layers", {"zarr.json": csr_matrix((3, 2))}),
        ("obsp", {LONG: csr_matrix((3, 3))}),
        ("uns", {LONG: 1}),
        ("uns", {"deep": {LONG: 1}}),
        ("uns", {"deep": {"zarr.json": 1}}),
        ("uns", {"deep": {"a\0b": 1}}),
        ("uns", {"deep": {"a\ud800": 1}}),
    ],
)
def test_names_that_no_file_can_have(slot, entry):
    with pytest.raises((ValueError, TypeError), match=rf"{slot}\['{next(iter(entry))[:40]}.* cannot be written"):
        table(**{slot: entry})


def test_what_is_not_tried_can_be_written(tiny, tmp_path):
    """Numbers in columns, and text and numbers in `uns`, under simple names."""
    columns = {f"of_{kind}": np.ones(3, kind) for kind in ("bool", "i1", "u8", "i8", "f2", "f4", "f8")}
    uns = {"text": "a", "empty": "", "yes": True, "real": 1.5, "none": float("nan"), "deep": {"text": "b"}}
    made = table(obs=pd.DataFrame(columns, index=["A", "B", "C"]), uns=uns)
    add_table(tiny, "t", made, what="genes")
    tiny.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")["t"]
    for name, values in columns.items():
        np.testing.assert_array_equal(again.obs[name], values)
        assert again.obs[name].dtype == values.dtype
    np.testing.assert_equal({name: again.uns[name] for name in uns}, uns)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError("too large")])
def test_errors_of_the_machine_are_not_blamed_on_the_table(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("anndata.io.write_elem", fail)
    with pytest.raises(type(error), match=str(error.args[-1])):
        table()


def test_checks_need_no_disk(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    table(uns={"fine": 1})


def test_nothing_is_added_when_a_table_cannot_be_written(tiny):
    obs = pd.DataFrame({"odd": pd.to_datetime(["2020"] * 3)}, index=["A", "B", "C"])
    with pytest.raises(TypeError):
        add_table(tiny, "t", table(obs=obs), what="genes")
    assert list(tiny.tables) == []


@pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
def test_results_of_scanpy_can_be_written(tiny, tmp_path):
    obs = pd.DataFrame(
        {
            "leiden": pd.Categorical(["0", None, "1"]),
            "text": ["x", None, "y"],
            "truth": pd.array([True, None, False], dtype="boolean"),
            "count": pd.array([1, None, 3], dtype="Int64"),
            "bin": pd.cut([1, 2, 3], 2),
        },
        index=["A", "B", "C"],
    )
    uns = {
        "log1p": {"base": None},
        "groups": np.array([("a", 1.0)], dtype=[("0", "O"), ("1", "f8")]),
        "pairs": pd.DataFrame({"source": ["a"], "weight": [1.0]}),
        "graph": csr_matrix(np.eye(2)),
        "leiden_colors": np.array(["#000000", "#ffffff"]),
    }
    celltypes = pd.DataFrame({"T cell": [0.1, 0.2, 0.3]}, index=pd.Index(["A", "B", "C"], name="T cell"))
    add_table(tiny, "t", table(obs=obs, uns=uns, obsm={"celltypes": celltypes}), what="genes")
    tiny.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")["t"]
    assert again.uns["log1p"] == {"base": None}
    assert again.obs["leiden"].isna().tolist() == [False, True, False]
    np.testing.assert_array_equal(again.obsm["celltypes"]["T cell"], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("shape", [(3, 9, 4), (3, 1, 1), (3, 2, 2, 2)])
def test_subspots_in_half_precision_round_trip(tiny, tmp_path, shape):
    cube = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    add_table(tiny, "t", table(obsm={"subspots": cube}), what="features")
    tiny.write(tmp_path / "a.zarr")
    again = np.asarray(read_zarr(tmp_path / "a.zarr")["t"].obsm["subspots"])
    assert again.dtype == np.float16
    np.testing.assert_array_equal(again, cube)


@pytest.mark.parametrize("key", ["hf-hub:Org/model", "a b", "", "..", ".", ".hidden", "__x", "a/b"])
def test_invalid_names(tiny, key):
    with pytest.raises(ValueError, match="cannot be a name in SpatialData: use letters, digits"):
        add_table(tiny, key, table(), what="genes")
    assert list(tiny.tables) == []


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [("zarr.json", ValueError, "file in every store"), ("ä" * 101, ValueError, "200 bytes"), (1, TypeError, "be text")],
)
def test_names_that_no_store_can_have(tiny, key, error, match):
    with pytest.raises(error, match=match):
        add_table(tiny, key, table(), what="genes")
    assert list(tiny.tables) == []


@pytest.mark.parametrize("key", ["Spots", "SPOTS", "spots", "HE"])
def test_names_that_differ_in_case_only(tiny, key):
    with pytest.raises(ValueError, match=rf"'{key}' clashes with the element '(spots|he)': names must differ by more"):
        add_table(tiny, key, table(), what="genes")


def test_clash_with_a_table_in_case_only(tiny):
    add_table(tiny, "genes", table(), what="genes")
    with pytest.raises(ValueError, match="'Genes' clashes with the element 'genes'"):
        check_new_key(tiny, "Genes", overwrite=True)


def test_existing_table_is_replaced_with_overwrite_only(tiny, log):
    add_table(tiny, "t", table(), what="genes")
    with pytest.raises(ValueError, match=r"sdata\.tables\['t'\] exists. Pass `overwrite=True`, or another `key_added`"):
        add_table(tiny, "t", table(X=np.zeros((3, 2))), what="genes")
    assert tiny["t"].X[0, 0] == 1
    add_table(tiny, "t", table(X=np.zeros((3, 2))), what="genes", overwrite=True)
    assert tiny["t"].X[0, 0] == 0
    assert log == ["Added 3 spots × 2 genes to sdata.tables['t']."] * 2


def test_shapes_are_never_overwritten(tiny):
    with pytest.raises(ValueError, match="'spots' clashes with the element 'spots'"):
        check_new_key(tiny, "spots", overwrite=True)


def test_hint_explains_how_to_save(tiny, tmp_path, log):
    tiny.write(tmp_path / "a.zarr")
    add_table(tiny, "t", table(), what="genes")
    assert log[-1].endswith("It is in memory: `sdata.write_element('t')` saves it.")
    tiny.write_element("t")
    add_table(tiny, "t", table(X=np.zeros((3, 2))), what="genes", overwrite=True)
    assert log[-1].endswith("`sdata.delete_element_from_disk('t')` and `write_element` replace it on disk.")
    tiny.delete_element_from_disk("t")
    tiny.write_element("t")
    assert read_zarr(tmp_path / "a.zarr")["t"].X[0, 0] == 0


@pytest.fixture
def small(slide_of):
    """Small measured slide."""
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    sdata = slide_of(image, [[20, 30], [45, 30], [70, 40]], index=["A", "B", "C"], mpp=0.5, diameter_um=15)
    sdata["counts"] = table(X=csr_matrix(np.eye(3)))
    return sdata


@pytest.fixture
def full(small, cheap_encoder):
    """Slide with one of each element that the package adds."""
    ds.pp.embed(small, cheap_encoder)
    ds.pp.set_scale(small, mpp=0.51, diameter_um=16)
    prediction = table(
        X=np.random.default_rng(0).random((3, 5), dtype=np.float32),
        var=pd.DataFrame({"r": np.linspace(0, 1, 5)}, index=pd.Index([f"G{i}" for i in range(5)], name="gene")),
        layers={"unclipped": np.ones((3, 5), np.float32)},
        obsm={"spatial": np.ones((3, 2))},
        uns={"log1p": {}, UNS: {"kind": "prediction", "versions": {"torch": "2"}, "scale": "log1p"}},
    )
    add_table(small, "deepspot_spots", prediction, what="predicted genes")
    return small


def assert_same_slide(a, b):
    assert set(a.tables) == set(b.tables) == {"counts", "mean_color_spots", "deepspot_spots"}
    for key in ("mean_color_spots", "deepspot_spots"):
        assert_same_table(a[key], b[key])
    for sdata in (a, b):
        assert microns_per_pixel(sdata, "he") == pytest.approx(0.51)
        assert list(sdata["spots"]["diameter_um"]) == [16, 16, 16]


def test_round_trip_twice(full, tmp_path):
    full.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert_same_slide(again, full)
    again.write(tmp_path / "b.zarr")
    again.delete_element_from_disk("deepspot_spots")
    again.write_element("deepspot_spots")
    assert_same_slide(read_zarr(tmp_path / "b.zarr"), full)


def test_adding_to_a_backed_store(small, cheap_encoder, tmp_path):
    small.write(tmp_path / "a.zarr")
    backed = read_zarr(tmp_path / "a.zarr")
    ds.pp.embed(backed, cheap_encoder)
    backed.write_element("mean_color_spots")
    backed.shapes["fresh"] = ShapesModel.parse(backed["spots"].assign(diameter_um=50.0))
    backed.write_element("fresh")
    ds.pp.set_scale(backed, image_key="he", mpp=2.0)
    backed.write_transformations()

    again = read_zarr(tmp_path / "a.zarr")
    assert_same_table(again["mean_color_spots"], backed["mean_color_spots"])
    assert set(again["fresh"]["diameter_um"]) == {50.0}
    assert microns_per_pixel(again, "he") == 2
    np.testing.assert_array_equal(again["counts"].X.toarray(), np.eye(3))


def test_features_are_found_again_after_reading(small, cheap_encoder, tmp_path, log):
    ds.pp.embed(small, cheap_encoder)
    small.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    before = cheap_encoder.n_tiles
    ds.pp.embed(again, cheap_encoder)
    assert cheap_encoder.n_tiles == before
    assert log[-1].startswith("Using sdata.tables['mean_color_spots']")


def test_check_writable_changes_index_names_only():
    adata = AnnData(np.ones((2, 1)), obs=pd.DataFrame({"a": ["x", "y"]}, index=["1", "2"]), uns={"k": {"v": [1]}})
    check_writable(adata)
    assert adata.obs["a"].tolist() == ["x", "y"]
    assert not isinstance(adata.obs["a"].dtype, pd.CategoricalDtype)
    assert adata.uns == {"k": {"v": [1]}}


def test_add_columns(tiny, tmp_path, log):
    made = table(var=pd.DataFrame({"old": [1, 2]}, index=["g", "h"]))
    add_table(tiny, "t", made, what="genes")
    columns = pd.DataFrame({"r": [0.5, np.nan]}, index=["h", "g"])
    add_columns(tiny, "t", columns, what="agreement")
    assert log[-1] == "Added agreement to var of sdata.tables['t']."
    np.testing.assert_array_equal(tiny["t"].var["r"], [np.nan, 0.5])
    assert list(tiny["t"].var["old"]) == [1, 2]
    with pytest.raises(ValueError, match=r"var of sdata.tables\['t'\] has \['r'\] already. Pass `overwrite=True`"):
        add_columns(tiny, "t", columns.assign(new=1.0), what="agreement")
    assert "new" not in tiny["t"].var
    add_columns(tiny, "t", columns.fillna(0), what="agreement", overwrite=True)
    tiny.write(tmp_path / "a.zarr")
    assert list(read_zarr(tmp_path / "a.zarr")["t"].var["r"]) == [0.0, 0.5]


def test_add_shapes(tiny, tmp_path, log):
    made = ShapesModel.parse(np.array([[1.0, 2.0]]), geometry=0, radius=1, index=["a_0"])
    made.index.name = "radius"  # also a column, which cannot be written
    add_shapes(tiny, "finer", made, what="sub-spots")
    assert log[-1] == "Added 1 sub-spots to sdata.shapes['finer']."
    with pytest.raises(ValueError, match=r"sdata.shapes\['finer'\] exists. Pass `overwrite=True`"):
        add_shapes(tiny, "finer", made, what="sub-spots")
    with pytest.raises(ValueError, match="clashes with the element 'finer'"):
        check_new_key(tiny, "FINER", kind="shapes")
    add_shapes(tiny, "finer", made, what="sub-spots", overwrite=True)
    tiny.write(tmp_path / "a.zarr")
    assert list(read_zarr(tmp_path / "a.zarr").shapes["finer"].index) == ["a_0"]
