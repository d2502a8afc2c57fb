import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame
from shapely import box
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity

import deepspot as ds

CARD = ds.encoders.EncoderCard(name="theirs", dim=4)
DIM = CARD.dim
SPOT_ONLY = {"network": {"context": ("spot", "neighbors"), "members": 1}, "training": {"epochs": 2, "max_epochs": 2}}


@pytest.fixture(scope="session")
def vectors():
    path = Path(os.environ.get("DEEPSPOT_DATA", "")).parent / "vectors"
    if not (path / "trident").is_dir():
        pytest.skip("needs the folder of test vectors next to DEEPSPOT_DATA")
    return path


def features_of(sdata, seed=0):
    return np.random.default_rng(seed).normal(size=(len(sdata.shapes["spots"]), DIM)).astype(np.float32)


def centers_of(sdata):
    """Spots in pixels of the full-resolution image; those of toy slides are in them."""
    circles = sdata.shapes["spots"].geometry
    return np.column_stack([circles.x, circles.y])


def write_h5(path, values, corners, attributes, *, layout="features", names=None, encoder=None):
    with h5py.File(path, "w") as file:
        file[layout] = values
        file["coords"] = corners
        file["coords"].attrs.update(attributes)
        if names is not None:
            file["barcodes"] = np.array([[name.encode()] for name in names])
        if encoder is not None:
            file[layout].attrs["encoder"] = encoder
    return path


def trident(path, sdata, values, *, side=200, order=None, shift=0.0, **options):
    """Patches around the spots, in another order, and one patch that is at no spot."""
    corners = np.round(centers_of(sdata) - side / 2 + shift).astype(np.int64)
    order = np.random.default_rng(1).permutation(len(values)) if order is None else order
    corners = np.concatenate([corners[order], [[-5000, -5000]]])
    stated = {"patch_size": side // 2, "patch_size_level0": side, "level0_magnification": 10, "overlap": 0}
    stated |= {"target_magnification": 5, "savetodir": "None"}
    return write_h5(path, np.concatenate([values[order], np.zeros((1, DIM))]), corners, stated, **options)


@pytest.fixture
def mpp(slide):
    return _mpp(slide)


def _mpp(sdata):
    from spatialdata.transformations import get_transformation

    matrix = get_transformation(sdata.shapes["spots"], "microns").to_affine_matrix(("x", "y"), ("x", "y"))
    return float(matrix[0, 0])


def test_trident_patches_are_matched_by_their_centers(slide, tmp_path, mpp, log):
    values = features_of(slide)
    path = trident(tmp_path / "S.h5", slide, values, encoder="theirs")
    assert ds.pp.use_features(slide, path, encoder=CARD) is None
    table = slide.tables["theirs_spots"]
    np.testing.assert_array_equal(table.X, values)
    assert table.X.dtype == np.float32
    made = table.uns["deepspot"]
    assert made["geometry"]["tile_um"] == pytest.approx(200 * mpp, rel=1e-3)
    assert (made["kind"], made["imported"], made["subspots"]) == ("features", "S.h5", "none")
    assert "fingerprint" not in made
    assert "subspots" not in table.obsm
    assert log[-1] == "1 patches are at no spot and were left out."


def test_a_patch_that_is_named_by_its_center_is_refused(slide, tmp_path):
    path = trident(tmp_path / "S.h5", slide, features_of(slide), shift=100)
    with pytest.raises(ValueError, match=r"30 of 30 spots of 'spots' have no features in S\.h5.*tolerance"):
        ds.pp.use_features(slide, path, encoder=CARD)
    assert "theirs_spots" not in slide.tables


def test_a_scale_that_contradicts_the_magnification(slide, tmp_path):
    path = tmp_path / "S.h5"
    stated = {"patch_size": 256, "patch_size_level0": 200, "level0_magnification": 40, "target_magnification": 20}
    values = features_of(slide)
    write_h5(path, values, np.round(centers_of(slide) - 100).astype(np.int64), stated)
    with pytest.raises(ValueError, match=r"has 200 µm by the scale of the slide .* but 128 µm by its magnification"):
        ds.pp.use_features(slide, path, encoder=CARD)
    ds.pp.use_features(slide, path, encoder=CARD, tile_um=200)
    np.testing.assert_array_equal(slide.tables["theirs_spots"].X, values)


def test_missing_patches_are_counted(slide, tmp_path):
    values = features_of(slide)
    path = trident(tmp_path / "S.h5", slide, values, order=np.arange(2, 30))
    with pytest.raises(ValueError, match="2 of 30 spots of 'spots' have no features"):
        ds.pp.use_features(slide, path, encoder=CARD)
    slide.shapes["spots"] = slide.shapes["spots"].iloc[2:]
    ds.pp.use_features(slide, path, encoder=CARD)
    np.testing.assert_array_equal(slide.tables["theirs_spots"].X, values[2:])


def test_clam_states_the_side_at_a_level(slide, tmp_path, mpp):
    values = features_of(slide)
    corners = np.round(centers_of(slide) - 100)
    stated = {"patch_size": 100, "patch_level": 0, "custom_downsample": 2}
    ds.pp.use_features(slide, write_h5(tmp_path / "a.h5", values, corners, stated), encoder=CARD)
    assert slide.tables["theirs_spots"].uns["deepspot"]["geometry"]["tile_um"] == pytest.approx(200 * mpp, rel=1e-3)
    other = write_h5(tmp_path / "b.h5", values, corners, stated | {"patch_level": 1})
    with pytest.raises(ValueError, match="The side of a patch is unknown"):
        ds.pp.use_features(slide, other, encoder=CARD, key_added="b")
    ds.pp.use_features(slide, other, encoder=CARD, key_added="b", tile_um=200 * mpp)
    np.testing.assert_array_equal(slide.tables["b"].X, values)


def test_the_stated_side_must_agree_with_that_of_the_user(slide, tmp_path, mpp):
    path = trident(tmp_path / "S.h5", slide, features_of(slide))
    with pytest.raises(ValueError, match=r"a patch has .* µm, and `tile_um` is"):
        ds.pp.use_features(slide, path, encoder=CARD, tile_um=100 * mpp)


def test_the_size_of_the_slide_tells_a_downscaled_image_from_another_slide(slide, tmp_path):
    values = features_of(slide)
    image = slide.images["P1_S1_image"]
    height, width = image.shape[1:]
    side = 400
    corners = 2 * centers_of(slide) - side / 2  # level 0 has twice the pixels of the image
    stated = {"patch_size_level0": side, "level0_width": 2 * width, "level0_height": 2 * height}
    ds.pp.use_features(slide, write_h5(tmp_path / "S.h5", values, corners, stated), encoder=CARD)
    np.testing.assert_array_equal(slide.tables["theirs_spots"].X, values)
    assert slide.tables["theirs_spots"].uns["deepspot"]["geometry"]["tile_um"] == pytest.approx(
        200 * _mpp(slide), rel=0.01
    )
    wrong = write_h5(tmp_path / "T.h5", values, corners, stated | {"level0_width": 5 * width})
    with pytest.raises(ValueError, match="Check that both are of one slide"):
        ds.pp.use_features(slide, wrong, encoder=CARD, key_added="other")


def test_hest_embeddings_are_matched_by_barcode(slide, tmp_path):
    values, names = features_of(slide), [str(name) for name in slide.shapes["spots"].index]
    order = np.random.default_rng(2).permutation(len(names))
    nowhere = np.zeros((len(names), 2), dtype=np.int64)
    options = {"layout": "embeddings", "names": [names[i] for i in order]}
    path = write_h5(tmp_path / "S.h5", values[order], nowhere, {}, **options)
    ds.pp.use_features(slide, path, encoder=CARD, tile_um=112)
    np.testing.assert_array_equal(slide.tables["theirs_spots"].X, values)
    options["names"] = ["x" + name for name in options["names"]]
    path = write_h5(tmp_path / "T.h5", values[order], nowhere, {}, **options)
    with pytest.raises(ValueError, match=r"30 of 30 spots .* names like \['x"):
        ds.pp.use_features(slide, path, encoder=CARD, tile_um=112, key_added="other")


def test_arrays_are_in_the_order_of_the_shapes(slide):
    values = features_of(slide)
    for wrong in (values[:-1], values[:, 0], np.full((30, DIM), "a")):
        with pytest.raises(ValueError, match=r"must be numbers of shape \(30, d\)"):
            ds.pp.use_features(slide, wrong, encoder=CARD, tile_um=55)
    with pytest.raises(ValueError, match=r"The features of 1 of 30 spots are not finite"):
        ds.pp.use_features(slide, np.where(np.arange(30)[:, None] == 3, np.nan, values), encoder=CARD, tile_um=55)
    ds.pp.use_features(slide, values, encoder=CARD, tile_um=55)
    np.testing.assert_array_equal(slide.tables["theirs_spots"].X, values)


def test_tables_are_matched_by_instance_position_or_name(slide, mpp):
    values = features_of(slide)
    spots = slide.shapes["spots"]
    order = np.random.default_rng(3).permutation(30)

    def parse(region, names):
        obs = pd.DataFrame({"library_id": pd.Categorical([region] * 30), "tile_id": names}, index=names.astype(str))
        link = {"region": region, "region_key": "library_id", "instance_key": "tile_id"}
        return TableModel.parse(AnnData(values[order], obs=obs), **link)

    slide.tables["of_spots"] = parse("spots", spots.index[order].to_numpy())
    ds.pp.use_features(slide, table_key="of_spots", encoder=CARD, tile_um=55, key_added="by_instance")
    # As LazySlide: tiles are polygons of their own, and the table annotates these.
    tiles = [box(x - 60, y - 60, x + 60, y + 60) for x, y in centers_of(slide)]
    frame = GeoDataFrame({"tile_id": np.arange(30)}, geometry=tiles)
    slide.shapes["tiles"] = ShapesModel.parse(frame, transformations={"global": Identity()})
    slide.tables["of_tiles"] = parse("tiles", np.arange(30)[order])
    ds.pp.use_features(slide, table_key="of_tiles", encoder=CARD, shapes_key="spots", key_added="by_position")
    made = slide.tables["by_position"].uns["deepspot"]
    assert made["geometry"]["tile_um"] == pytest.approx(120 * mpp, rel=1e-3)
    slide.tables["loose"] = AnnData(values[order], obs=pd.DataFrame(index=spots.index[order].astype(str)))
    ds.pp.use_features(slide, table_key="loose", encoder=CARD, tile_um=55, shapes_key="spots", key_added="by_name")
    for key in ("by_instance", "by_position", "by_name"):
        np.testing.assert_array_equal(slide.tables[key].X, values)


def test_patches_become_spots_of_a_slide_without_shapes(slide, tmp_path, mpp):
    values = features_of(slide)
    corners = np.round(centers_of(slide) - 100)
    stated = {"patch_size_level0": 200}
    bare = SpatialData(images=dict(slide.images))
    ds.pp.use_features(bare, write_h5(tmp_path / "S.h5", values, corners, stated), encoder=CARD)
    np.testing.assert_array_equal(bare.tables["theirs_spots"].X, values)
    np.testing.assert_allclose(bare.tables["theirs_spots"].obsm["spatial"], corners + 100)
    assert bare.shapes["spots"]["diameter_um"].iloc[0] == pytest.approx(200 * mpp, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Pass either `features`"),
        ({"features": "a.pt"}, "is not an HDF5 file"),
        ({"features": np.ones((30, DIM))}, "does not name the encoder"),
        ({"features": np.ones((30, DIM)), "encoder": "nobody"}, "'nobody' is not registered"),
        (
            {"features": np.ones((30, DIM)), "encoder": "uni", "tile_um": 55},
            "4 columns, but encoder 'uni' has dimension",
        ),
        ({"features": np.ones((30, DIM)), "encoder": CARD}, "The side of a patch is unknown"),
    ],
)
def test_bad_input(slide, options, message):
    before = list(slide.tables)
    with pytest.raises(ValueError, match=message):
        ds.pp.use_features(slide, **options)
    assert list(slide.tables) == before


def test_files_of_other_contents(slide, tmp_path):
    with pytest.raises(FileNotFoundError):
        ds.pp.use_features(slide, tmp_path / "none.h5", encoder=CARD)
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        ds.pp.use_features(slide, tmp_path / "text.h5", encoder=CARD)
    path = trident(tmp_path / "S.h5", slide, features_of(slide), encoder="gigapath")
    with pytest.raises(ValueError, match="has features of 'prov-gigapath', not of `encoder` 'theirs'"):
        ds.pp.use_features(slide, path, encoder=CARD)


def test_published_layouts(slide, vectors, slide_of):
    job = vectors / "trident" / "job" / "20x_256px_0px_overlap"
    with h5py.File(job / "features_uni_v1" / "SLIDE1.h5") as file:
        corners, values = file["coords"][:], file["features"][:]
    card = ds.encoders.EncoderCard(name="uni", dim=32)
    sdata = slide_of(np.zeros((500, 600, 3), np.uint8), (corners + 256) / 10, mpp=2.5)  # 10 times smaller than level 0
    ds.pp.use_features(sdata, job / "features_uni_v1" / "SLIDE1.h5", encoder=card)
    np.testing.assert_array_equal(sdata.tables["uni_spots"].X, values)
    assert sdata.tables["uni_spots"].uns["deepspot"]["geometry"]["tile_um"] == pytest.approx(128)
    for path, message in {
        job / "patches" / "SLIDE1_patches.h5": "It has only the coordinates of patches",
        job / "slide_features_titan" / "SLIDE1.h5": "It is the embedding of the whole slide",
        vectors / "trident" / "legacy_clam_SLIDE2.h5": "It has only the coordinates of patches",
    }.items():
        with pytest.raises(ValueError, match=message):
            ds.pp.use_features(sdata, path, encoder=card, key_added="other")


def without_image(sdata):
    """Spots, counts and the scale: all that a file of features needs."""
    shapes, table = sdata.shapes["spots"], sdata.tables["table"]
    return SpatialData(shapes={"spots": shapes}, tables={"table": table}, attrs=dict(sdata.attrs))


@pytest.mark.parametrize("image", [True, False])
def test_models_learn_from_features_that_others_made(slides, image, log):
    slides = slides if image else {name: without_image(sdata) for name, sdata in slides.items()}
    for seed, sdata in enumerate(slides.values()):
        ds.pp.use_features(sdata, features_of(sdata, seed), encoder=CARD, tile_um=55)
    keys = {"features_key": "theirs_spots"}
    options = {"patient_key": "patient", "genes": 5, "keys": keys, "seed": 0}
    with pytest.raises(ValueError, match="The feature table 'theirs_spots' has no sub-spots"):
        ds.models.train(slides, **options)
    with pytest.raises(ValueError, match="not both"):
        ds.models.train(slides, encoder="lite0", **options)
    context = {"ridge": {"context": [("spot", "neighbors")]}}
    cv = ds.models.cross_validate(slides, models=["ridge"], grid=context, tiles={"subspots": False}, **options)
    assert cv.scores["r"].notna().any()
    model = ds.models.train(slides, **options, **SPOT_ONLY)
    assert model.card.encoder == CARD
    assert model.card.encoder_fingerprint == ""
    assert model.geometry.tile.tile_um == 55
    assert all(bool(slide.image) == image for slide in model.card.slides)
    sdata = slides["P2_S1"]
    ds.tl.predict(sdata, model)
    predicted = sdata.tables["deepspot_spots"]
    assert predicted.uns["deepspot"]["features"] == "theirs_spots"
    bags = ds.models.Bags(features_of(sdata, 1), None, np.zeros((30, 30)))
    nearby = ds.models.Bags(bags.spot, None, _neighbors(sdata, model))
    np.testing.assert_allclose(predicted.X, model.predict(nearby).clip(0), rtol=1e-5, atol=1e-6)
    ds.tl.evaluate(sdata)
    ds.tl.correct(sdata, model, check_registration=False)
    assert ds.tl.check_alignment(sdata, model).verdict


def _neighbors(sdata, model):
    from deepspot._spatial.neighbors import find_neighbors

    return find_neighbors(centers_of(sdata) * _mpp(sdata), model.geometry.neighbors)


def test_features_of_others_are_used_only_for_what_they_are(slides, cheap_encoder, log):
    sdata = slides["P1_S1"]
    options = {"genes": 5, "encoder": cheap_encoder, "seed": 0, **SPOT_ONLY}
    model = ds.models.train(sdata, **options)
    other = slides["P2_S1"]
    card = cheap_encoder.card
    side = model.geometry.tile.tile_um
    ds.pp.use_features(other, np.zeros((30, card.dim)), encoder=card, tile_um=1.2 * side, key_added="larger")
    ds.tl.predict(other, model, encoder=cheap_encoder)
    assert other.tables["deepspot_spots"].uns["deepspot"]["features"] == "mean_color_spots"
    ds.pp.use_features(other, np.zeros((30, card.dim)), encoder=card, tile_um=1.04 * side, key_added="same")
    ds.tl.predict(other, model, key_added="theirs")
    assert other.tables["theirs"].uns["deepspot"]["features"] == "same"
    assert any("was made elsewhere" in line and "cannot be checked" in line for line in log)
    # A given encoder is used, and a finer grid needs other tiles.
    ds.tl.predict(other, model, encoder=cheap_encoder, key_added="ours")
    assert other.tables["ours"].uns["deepspot"]["features"] == "mean_color_spots"
    ds.tl.predict(other, model, encoder=cheap_encoder, resolution="grid")


def test_streaming_reads_the_table(slides, tmp_path):
    for seed, sdata in enumerate(slides.values()):
        ds.pp.use_features(sdata, features_of(sdata, seed), encoder=CARD, tile_um=55)
    options = {"patient_key": "patient", "genes": 5, "keys": {"features_key": "theirs_spots"}, "seed": 0}
    model = ds.models.train(slides, **options, **SPOT_ONLY)
    sdata = slides["P1_S1"]
    ds.tl.predict(sdata, model, key_added="memory")
    ds.tl.predict(sdata, model, key_added="disk", out=tmp_path / "out.zarr")
    memory, disk = sdata.tables["memory"], sdata.tables["disk"]
    np.testing.assert_allclose(np.asarray(disk[memory.obs_names].X), memory.X, atol=5e-3)


def test_a_table_that_was_sorted_or_moved_is_refused(slide):
    ds.pp.use_features(slide, features_of(slide), encoder=CARD, tile_um=55)
    options = {"genes": 5, "keys": {"features_key": "theirs_spots"}, **SPOT_ONLY}
    whole = slide.tables["theirs_spots"]
    slide.tables["theirs_spots"] = whole[::-1].copy()
    with pytest.raises(ValueError, match="are not the spots 'spots' in their order"):
        ds.models.train(slide, **options)
    whole.obsm["spatial"] = whole.obsm["spatial"] + 10
    slide.tables["theirs_spots"] = whole
    with pytest.raises(ValueError, match="made for other positions"):
        ds.models.train(slide, **options)


def test_an_object_without_image_says_what_needs_one(slide):
    bare = without_image(slide)
    with pytest.raises(KeyError, match="The object has no image"):
        ds.tl.predict(bare)


def test_scale_of_an_object_without_image(slide):
    bare = without_image(slide)
    points = centers_of(slide)
    bare.shapes["spots"] = ShapesModel.parse(points, geometry=0, radius=10, index=slide.shapes["spots"].index)
    with pytest.raises(ValueError, match="The scale of shapes 'spots' is unknown"):
        ds.pp.use_features(bare, features_of(slide), encoder=CARD, tile_um=55)
    ds.pp.set_scale(bare, pitch_um=100)
    ds.pp.use_features(bare, features_of(slide), encoder=CARD, tile_um=55)
    assert bare.tables["theirs_spots"].uns["deepspot"]["mpp"] == pytest.approx(_mpp(slide), rel=1e-3)


def test_embeddings_of_hest_bench(vectors):
    from anndata import read_h5ad

    task = vectors / "hest_bench"
    file = task / "embeddings" / "MINI" / "random64" / "SYN1.h5"
    adata = read_h5ad(task / "bench_data" / "MINI" / "adata" / "SYN1.h5ad")
    circles = ShapesModel.parse(adata.obsm["spatial"], geometry=0, radius=5, index=adata.obs_names)
    sdata = SpatialData(shapes={"spots": circles})
    ds.pp.set_scale(sdata, mpp=0.25)
    card = ds.encoders.EncoderCard(name="random64", dim=64)
    with pytest.raises(ValueError, match="1 of 44 spots of 'spots' have no features"):  # one spot has no patch
        ds.pp.use_features(sdata, file, encoder=card, tile_um=12)
    with h5py.File(file) as opened:
        names = [name.decode() for name in opened["barcodes"][:].ravel()]
        values, corners = opened["embeddings"][:], opened["coords"][:]
    sdata.shapes["spots"] = circles[circles.index.isin(names)]
    ds.pp.use_features(sdata, file, encoder=card, tile_um=12)
    table = sdata.tables["random64_spots"]
    order = [names.index(name) for name in table.obs_names]
    np.testing.assert_array_equal(table.X, values[order])
    np.testing.assert_allclose(table.obsm["spatial"], corners[order] + 24)  # half of the 48 px of a patch
