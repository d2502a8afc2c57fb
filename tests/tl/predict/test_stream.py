"""A streamed prediction equals the prediction in memory."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import deepspot as ds
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._sdata.tables import match_rows
from deepspot._sdata.view import SlideView
from deepspot.tl._predict import stream
from deepspot.tl._predict.stream import round_to_float16

HALF = 2.0**-11
# Mean colors are up to 255, and have steps of an eighth there.
HALF_EMBEDDINGS = 0.01


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, tmp_path):
    """Several blocks, so that neighbors are in other blocks, and a separate cache."""
    monkeypatch.setattr(stream, "ROWS", 7)
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")


@pytest.fixture
def streamed(slide, quick_model, cheap_encoder, tmp_path):
    """A function that predicts to disk."""

    def run(name="out.zarr", **options):
        options = {"encoder": cheap_encoder, "overwrite": True} | options
        ds.tl.predict(slide, options.pop("model", quick_model), out=tmp_path / name, **options)
        return slide.tables["deepspot_spots"]

    return run


def in_order(table, sdata):
    """`X` of a table in the order of the spots."""
    rows, at = match_rows(table, sdata, "spots")
    np.testing.assert_array_equal(at, np.arange(len(sdata.shapes["spots"])))
    return np.asarray(table.X)[rows]


def off(X, known):
    return np.abs(X - known).max() / known.std()


def test_it_equals_the_prediction_in_memory(slide, quick_model, cheap_encoder, streamed):
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder, key_added="memory")
    memory, disk = slide.tables["memory"], streamed()
    assert np.asarray(memory.X).std() > 0.01
    assert off(in_order(disk, slide), memory.X) < HALF_EMBEDDINGS
    rows, _ = match_rows(disk, slide, "spots")
    np.testing.assert_allclose(disk.obs["ood_score"].to_numpy()[rows], memory.obs["ood_score"], rtol=0.02, atol=1e-3)
    np.testing.assert_array_equal(disk.obsm["spatial"][rows], memory.obsm["spatial"])
    assert disk.var.equals(memory.var)
    made, known = (dict(table.uns["deepspot"]) for table in (disk, memory))
    assert known.pop("features") == "mean_color_spots"
    assert made == known | {"ood_share": made["ood_share"]}


def test_with_embeddings_in_full_precision_nothing_is_lost(slide, quick_model, cheap_encoder, streamed, monkeypatch):
    from deepspot._features.cache import EmbeddingCache

    kept = {}

    def put(self, block, spot, subspots):
        kept[block] = {"spot": spot, "subspots": subspots}

    monkeypatch.setattr(EmbeddingCache, "put", put)
    monkeypatch.setattr(EmbeddingCache, "get", lambda self, block, part, shape: kept.get(block, {}).get(part))
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder, key_added="memory")
    # To the rounding of float32, which batches of other sizes add up in another order: half precision is off by 1e-2.
    np.testing.assert_allclose(in_order(streamed(), slide), np.asarray(slide.tables["memory"].X), rtol=1e-5, atol=5e-6)


def test_the_store_is_complete(streamed, slide, tmp_path):
    from spatialdata import read_zarr

    slide.attrs["note"] = "kept"
    table = streamed()
    alone = read_zarr(tmp_path / "out.zarr")
    np.testing.assert_array_equal(alone.tables["deepspot_spots"].X, np.asarray(table.X))
    assert not alone.images
    assert set(alone.shapes["spots"].index) == set(slide.shapes["spots"].index)
    assert alone.attrs["note"] == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.zarr"]
    alone.write(tmp_path / "again.zarr")


def test_x_stays_on_disk_in_blocks(streamed):
    X = streamed().X
    assert X.chunks == ((7, 7, 7, 7, 2), (10,))


def test_near_spots_follow_each_other(streamed):
    xy = streamed().obsm["spatial"]
    assert np.linalg.norm(np.diff(xy, axis=0), axis=1).max() < 3 * 100


def test_the_second_run_embeds_nothing(streamed, cheap_encoder):
    first = np.asarray(streamed().X)
    tiles = cheap_encoder.n_tiles
    assert tiles == 30 * 10  # every tile once
    np.testing.assert_array_equal(first, np.asarray(streamed("second.zarr").X))
    assert cheap_encoder.n_tiles == tiles


def test_another_run_embeds_what_is_missing(streamed, cheap_encoder, tmp_path):
    first = np.asarray(streamed().X)
    blocks = sorted((tmp_path / "cache" / "embeddings").glob("*/block_*"))
    assert len(blocks) == 5
    blocks[1].unlink()
    tiles = cheap_encoder.n_tiles
    np.testing.assert_array_equal(first, np.asarray(streamed().X))
    assert cheap_encoder.n_tiles - tiles == 7 * 10


def test_without_a_cache_it_is_the_same(streamed, tmp_path, monkeypatch):
    first = np.asarray(streamed().X)
    ds.clear_cache()
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    np.testing.assert_array_equal(first, np.asarray(streamed().X))
    assert not (tmp_path / "cache" / "embeddings").exists()


def test_half_is_rounded_and_still_float32(streamed):
    whole = np.asarray(streamed().X)
    rounded = streamed(rounded=True).X
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(np.asarray(rounded), whole, rtol=HALF)
    assert np.abs(np.asarray(rounded) - whole).max() > 0


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, 20, elements=st.floats(2.0**-10, 100, width=32)))
def test_rounding_is_to_the_nearest(values):
    np.testing.assert_array_equal(round_to_float16(values), values.astype(np.float16).astype(np.float32))


def test_the_limit_of_memory_does_not_apply(streamed, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-6)
    assert streamed().shape == (30, 10)


@pytest.mark.parametrize("options", [{"resolution": "grid"}, {"resolution": "subspot"}, {"unclipped": True}])
def test_only_x_of_spots_and_cells_is_streamed(streamed, options, tmp_path):
    with pytest.raises(ValueError, match="Only `X` of spots and cells is streamed"):
        streamed(**options)
    assert not list(tmp_path.iterdir())


def test_rounding_needs_a_disk(slide, quick_model, cheap_encoder):
    with pytest.raises(ValueError, match="`rounded` needs `out=`"):
        ds.tl.predict(slide, quick_model, encoder=cheap_encoder, rounded=True)


def test_an_existing_store_is_not_replaced(streamed, slide, tmp_path):
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        streamed(overwrite=False)
    assert "deepspot_spots" not in slide.tables


def test_an_encoder_that_fails_leaves_nothing(streamed, slide, cheap_encoder, tmp_path, monkeypatch):
    def fail(tiles):
        raise MemoryError

    monkeypatch.setattr(cheap_encoder, "encode", fail)
    with pytest.raises(MemoryError):
        streamed()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert "deepspot_spots" not in slide.tables


def test_a_write_that_fails_leaves_nothing(streamed, tmp_path, monkeypatch):
    """The thread that predicts the next block must end before its folders are deleted."""
    begun, going_on, found = threading.Event(), threading.Event(), []

    def late(self, bags, **options):
        if found:  # the second block is predicted while the first is written
            begun.set()
            going_on.wait(5)
        found.append(list(tmp_path.glob(".out.zarr*")))
        return np.zeros((len(options["rows"]), 10), dtype=np.float32)

    def fail(sdata, key, blocks, draft):
        next(iter(blocks))
        begun.wait(5)
        threading.Timer(0.3, going_on.set).start()
        raise OSError("disk full")

    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    monkeypatch.setattr(ds.models.DeepSpot, "predict", late)
    monkeypatch.setattr("deepspot.tl._predict.stream.write_table_in_blocks", fail)
    with pytest.raises(OSError, match="disk full"):
        streamed()
    assert len(found) == 2
    assert all(found)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


def test_neighbors_in_a_box_of_the_array(slide, cheap_encoder, mean_color, toy, tmp_path):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    model = ds.models.train(
        slides,
        patient_key="patient",
        genes=10,
        encoder=mean_color(),
        preset="published",
        network={"width": 16, "members": 1},
        training={"epochs": 1, "max_epochs": 1, "gate": "record"},
        seed=0,
    )
    ds.tl.predict(slide, model, encoder=cheap_encoder, key_added="memory")
    ds.tl.predict(slide, model, encoder=cheap_encoder, out=tmp_path / "out.zarr")
    assert off(in_order(slide.tables["deepspot_spots"], slide), slide.tables["memory"].X) < HALF_EMBEDDINGS


def test_a_single_spot(slide, quick_model, cheap_encoder, tmp_path):
    slide.shapes["one"] = slide.shapes["spots"].iloc[[3]]
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder, shapes_key="one", out=tmp_path / "out.zarr")
    assert slide.tables["deepspot_one"].shape == (1, 10)
    assert np.isfinite(np.asarray(slide.tables["deepspot_one"].X)).all()


def test_only_a_streamed_prediction_is_replaced(streamed, slide, quick_model, cheap_encoder, tmp_path):
    streamed()
    streamed()
    slide.write(tmp_path / "slide.zarr")
    before = sorted(path.name for path in (tmp_path / "slide.zarr").iterdir())
    with pytest.raises(ValueError, match=r"slide\.zarr' is where this slide itself is stored"):
        streamed("slide.zarr")
    for inside in ("slide.zarr/tables", "slide.zarr/new.zarr"):
        with pytest.raises(ValueError, match=r"inside the store '.*slide\.zarr'"):
            streamed(inside)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious").touch()
    with pytest.raises(ValueError, match=r"results' is not a prediction that was streamed"):
        streamed("results")
    assert sorted(path.name for path in (tmp_path / "slide.zarr").iterdir()) == before
    assert (tmp_path / "results" / "precious").exists()


@pytest.mark.parametrize("name", ["zarr.json", "tables/deepspot_spots/uns/deepspot/kind/zarr.json"])
@pytest.mark.parametrize("content", ["", "[]"])
def test_a_damaged_store_is_not_replaced(streamed, tmp_path, name, content):
    streamed()
    (tmp_path / "out.zarr" / name).write_text(content)
    with pytest.raises(ValueError, match=r"out\.zarr' is not a prediction that was streamed"):
        streamed()


def test_embeddings_of_large_range_are_as_exact_as_in_memory(slide, toy, tmp_path):
    from spatialdata import deepcopy

    class Large:
        card, fingerprint = ds.encoders.EncoderCard(name="large", dim=3, input_px=8), "large"

        def to(self, device):
            return self

        def encode(self, tiles):
            return tiles.mean((1, 2), dtype=np.float32) * 10

    options = {"training": {"epochs": 1, "max_epochs": 1, "gate": "off"}, "network": {"width": 16, "members": 1}}
    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    model = ds.models.train(slides, patient_key="patient", genes=10, encoder=Large(), seed=0, **options)
    ds.tl.predict(slide, model, encoder=Large(), out=tmp_path / "out.zarr")
    streamed = in_order(slide.tables["deepspot_spots"], slide)
    ds.tl.predict(slide, model, encoder=Large(), overwrite=True)
    np.testing.assert_allclose(streamed, np.asarray(slide.tables["deepspot_spots"].X), atol=1e-3)


def test_blocks_of_another_size_are_not_reused(streamed, cheap_encoder, monkeypatch):
    known = np.asarray(streamed().X)
    monkeypatch.setattr(stream, "ROWS", 11)
    tiles = cheap_encoder.n_tiles
    np.testing.assert_allclose(np.asarray(streamed().X), known, atol=1e-5)
    assert cheap_encoder.n_tiles == 2 * tiles


def test_spots_with_different_numbers_of_subspots(slide, quick_model, cheap_encoder, tmp_path):
    ds.pp.embed(slide, cheap_encoder)
    features = slide["mean_color_spots"]
    present = np.random.default_rng(0).random((features.n_obs, 9)) < 0.4
    present[5] = False
    features.obsm["subspots"] = features.obsm["subspots"] * present[..., None]
    features.obsm["subspots_present"] = present
    view = SlideView.select(slide)
    stored = SlideFeatures(view, cheap_encoder, quick_model.geometry.tile, stored="mean_color_spots")
    options = {"rounded": False, "overwrite": False, "device": None, "batch_size": None}
    slide.tables["disk"] = stream.stream(stored, quick_model, tmp_path / "out.zarr", "disk", **options)
    memory = quick_model.predict(bags_of(slide, "mean_color_spots", "spots", quick_model.geometry.neighbors))
    assert off(in_order(slide.tables["disk"], slide), memory.clip(0)) < HALF_EMBEDDINGS
    other = present.copy()
    other[0, 0] ^= True
    before = stored.fingerprint
    features.obsm["subspots_present"] = other
    assert (
        SlideFeatures(view, cheap_encoder, quick_model.geometry.tile, stored="mean_color_spots").fingerprint != before
    )
