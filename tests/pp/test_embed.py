import numpy as np
import pytest
from spatialdata.models import ShapesModel

import deepspot as ds

SIDE = 60
GRID = np.array([[60.0, 60.0], [160.0, 60.0], [260.0, 60.0], [60.0, 160.0], [160.0, 160.0], [260.0, 160.0]])


def colored(step=1):
    """Spots of 3 × 3 parts with different colors: part k of spot i is (20 · i, 20 · k, 100)."""
    image = np.full((220, 320, 3), 255, np.uint8)
    for i, (x, y) in enumerate(GRID.astype(int)):
        for k in range(9):
            row, col = divmod(k, 3)
            top, left = y - 30 + 20 * row, x - 30 + 20 * col
            image[top : top + 20, left : left + 20] = (20 * i, 20 * k, 100)
    return np.kron(image, np.ones((step, step, 1), np.uint8))


@pytest.fixture
def sdata(slide_of):
    return slide_of(colored(), GRID, mpp=1.0, diameter_um=SIDE, index=list("ABCDEF"))


def part(i, k):
    """Embedding of a part of a tile."""
    return np.array([20 * i, 20 * k, 100]) / 32


def test_added_table(sdata, cheap_encoder, log):
    assert ds.pp.embed(sdata, cheap_encoder) is None
    assert list(sdata.tables) == ["mean_color_spots"]
    table = sdata["mean_color_spots"]
    assert table.shape == (6, 27)
    assert table.X.dtype == np.float32
    assert table.obsm["subspots"].shape == (6, 9, 27)
    assert table.obsm["subspots"].dtype == np.float16
    np.testing.assert_allclose(table.obsm["spatial"], GRID)
    assert table.obs["spot_id"].tolist() == list("ABCDEF")
    assert set(table.obs["region"]) == {"spots"}
    made = table.uns["deepspot"]
    assert made["kind"] == "features"
    assert made["image_key"] == "he"
    assert made["mpp"] == pytest.approx(1.0)
    assert made["geometry"] == {"tile_um": 60.0, "input_px": 32, "grid": 3}
    assert ds.encoders.EncoderCard.model_validate_json(made["encoder"]) == cheap_encoder.card
    assert log[-1] == "Added 6 spots × 27 features to sdata.tables['mean_color_spots']."


def test_spot_and_subspots_show_the_right_pixels(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder)
    table = sdata["mean_color_spots"]
    for i in range(6):
        np.testing.assert_array_equal(table.X[i].reshape(9, 3), [part(i, k) for k in range(9)])
        for k in range(9):  # row by row from the top left
            np.testing.assert_array_equal(table.obsm["subspots"][i, k].reshape(9, 3), [part(i, k)] * 9)


def test_more_spots_than_are_read_at_once(slide_of, cheap_encoder):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (400, 500, 3), dtype=np.uint8)
    xy = rng.uniform(0, [500, 400], (150, 2))
    sdata = slide_of(image, xy, mpp=1.0, diameter_um=30, chunks=(3, 64, 64))
    ds.pp.embed(sdata, cheap_encoder, batch_size=50)
    assert cheap_encoder.n_tiles == 1500
    assert max(map(len, cheap_encoder.seen)) == 50
    wide = np.pad(image, ((50, 50), (50, 50), (0, 0)), constant_values=255)
    corners = np.round(xy[:, ::-1] - 15).astype(int) + 50
    tiles = np.stack([wide[y : y + 30, x : x + 30] for y, x in corners])
    np.testing.assert_array_equal(sdata["mean_color_spots"].X, cheap_encoder.encode(tiles))


def test_without_subspots(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, subspots=False)
    assert cheap_encoder.n_tiles == 6
    assert "subspots" not in sdata["mean_color_spots"].obsm


def test_the_same_features_are_reused(sdata, cheap_encoder, log):
    ds.pp.embed(sdata, cheap_encoder)
    ds.pp.embed(sdata, cheap_encoder)
    assert cheap_encoder.n_tiles == 60
    assert list(sdata.tables) == ["mean_color_spots"]
    assert log[-1] == "Using sdata.tables['mean_color_spots']: image, spots, geometry and encoder are the same."


def test_a_table_of_any_name_is_found_by_its_fingerprint(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, key_added="mine")
    ds.pp.embed(sdata, cheap_encoder)
    assert cheap_encoder.n_tiles == 60
    assert list(sdata.tables) == ["mine"]


def change_pixel(sdata):
    values = np.array(sdata["he"].data)
    values[1, 60, 60] ^= 1
    sdata["he"].data = values


def move_spot(sdata):
    xy = GRID.copy()
    xy[0, 0] += 1
    sdata.shapes["spots"] = ShapesModel.parse(xy, geometry=0, radius=10, index=list("ABCDEF")).assign(diameter_um=60.0)
    ds.pp.set_scale(sdata, image_key="he", mpp=1.0)


def correct_scale(sdata):
    ds.pp.set_scale(sdata, image_key="he", mpp=0.99)


@pytest.mark.parametrize("change", [change_pixel, move_spot, correct_scale])
def test_a_changed_slide_gets_a_new_table(sdata, cheap_encoder, change):
    ds.pp.embed(sdata, cheap_encoder)
    before = sdata["mean_color_spots"].copy()
    change(sdata)
    ds.pp.embed(sdata, cheap_encoder)
    assert cheap_encoder.n_tiles == 120
    old, new = sdata.tables
    assert old == "mean_color_spots"
    assert new == f"{old}_{sdata[new].uns['deepspot']['fingerprint'][:8]}"
    np.testing.assert_array_equal(sdata[old].X, before.X)
    assert sdata[old].uns["deepspot"]["fingerprint"] == before.uns["deepspot"]["fingerprint"]


@pytest.mark.parametrize("arguments", [{"tile_um": 50}, {"subspots": False}])
def test_other_options_get_a_new_table(sdata, cheap_encoder, arguments):
    ds.pp.embed(sdata, cheap_encoder)
    ds.pp.embed(sdata, cheap_encoder, **arguments)
    assert len(sdata.tables) == 2


@pytest.mark.parametrize("other", [{"fingerprint": "2"}, {"input_px": 16}])
def test_another_encoder_of_the_same_name_gets_a_new_table(sdata, mean_color, other):
    ds.pp.embed(sdata, mean_color())
    ds.pp.embed(sdata, mean_color(**other))
    assert len(sdata.tables) == 2


def test_encoders_of_one_fingerprint_do_not_share_tables(sdata, mean_color):
    class Longer(mean_color):
        def __init__(self):
            super().__init__()
            self.card = self.card.model_copy(update={"dim": 54})

        def encode(self, tiles):
            return np.tile(super().encode(tiles), 2)

    encoders = [mean_color(), mean_color(name="other"), Longer()]
    for encoder in [*encoders, *encoders]:
        ds.pp.embed(sdata, encoder)
    assert sorted(table.n_vars for table in sdata.tables.values()) == [27, 27, 54]
    assert len({encoder.n_tiles for encoder in encoders}) == 1  # each once


def test_an_encoder_of_another_name(sdata, mean_color):
    ds.pp.embed(sdata, mean_color())
    ds.pp.embed(sdata, mean_color("hf-hub:Org/Model", "2"))
    assert set(sdata.tables) == {"mean_color_spots", "hf-hub_Org_Model_spots"}


@pytest.mark.parametrize("rows", [[0, 1, 2], [5, 4, 3, 2, 1, 0]], ids=["cut", "shuffled"])
def test_a_table_that_was_cut_or_shuffled_is_not_used_again(sdata, cheap_encoder, rows):
    ds.pp.embed(sdata, cheap_encoder)
    sdata.tables["mean_color_spots"] = sdata["mean_color_spots"][rows].copy()
    ds.pp.embed(sdata, cheap_encoder)
    assert cheap_encoder.n_tiles == 120
    (new,) = set(sdata.tables) - {"mean_color_spots"}
    assert sdata[new].obs["spot_id"].tolist() == list("ABCDEF")


def test_own_name(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, key_added="mine")
    ds.pp.embed(sdata, cheap_encoder, key_added="other")
    assert set(sdata.tables) == {"mine", "other"}
    assert cheap_encoder.n_tiles == 120
    ds.pp.embed(sdata, cheap_encoder, key_added="mine")
    assert cheap_encoder.n_tiles == 120


def test_a_taken_name_needs_overwrite(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, key_added="mine")
    with pytest.raises(ValueError, match=r"sdata\.tables\['mine'\] exists. Pass `overwrite=True`, or another"):
        ds.pp.embed(sdata, cheap_encoder, key_added="mine", tile_um=50)
    assert cheap_encoder.n_tiles == 60
    ds.pp.embed(sdata, cheap_encoder, key_added="mine", tile_um=50, overwrite=True)
    assert sdata["mine"].uns["deepspot"]["geometry"]["tile_um"] == 50
    assert list(sdata.tables) == ["mine"]


def test_overwrite_embeds_again(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder)
    ds.pp.embed(sdata, cheap_encoder, overwrite=True)
    assert cheap_encoder.n_tiles == 120
    assert list(sdata.tables) == ["mean_color_spots"]


def test_table_that_would_be_too_large(sdata, cheap_encoder, monkeypatch):
    gb = 6 * 27 * (4 + 9 * 2) / 1e9
    monkeypatch.setattr(ds.settings, "max_table_gb", 0.99 * gb)
    with pytest.raises(ValueError, match=r"features of 6 spots would take .* above `ds.settings.max_table_gb`.*`subs"):
        ds.pp.embed(sdata, cheap_encoder)
    assert cheap_encoder.n_tiles == 0
    monkeypatch.setattr(ds.settings, "max_table_gb", 1.01 * gb)
    ds.pp.embed(sdata, cheap_encoder)
    monkeypatch.setattr(ds.settings, "max_table_gb", 6 * 27 * 4.1 / 1e9)
    ds.pp.embed(sdata, cheap_encoder, subspots=False)
    assert len(sdata.tables) == 2


def test_size_of_a_spot_is_needed(slide_of, cheap_encoder):
    sdata = slide_of(colored(), GRID, mpp=1.0)
    with pytest.raises(ValueError, match=r"sdata.shapes\['spots'\] has no column 'diameter_um'. Pass `tile_um=` \(55"):
        ds.pp.embed(sdata, cheap_encoder)
    ds.pp.embed(sdata, cheap_encoder, tile_um=60)
    np.testing.assert_array_equal(sdata["mean_color_spots"].X[2].reshape(9, 3), [part(2, k) for k in range(9)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tile_um": -1}, ValueError, "`tile_um` must be above 0"),
        ({"tile_um": 15}, ValueError, r"a tile of 15 µm would have \{'he': 15\} px, at least 20 are needed"),
        ({"tile_um": 15, "image_key": "he"}, ValueError, r"image 'he' is too coarse: a tile of 15 µm has 15\.0 px"),
        ({"image_key": "nope"}, KeyError, "Key `'nope'` not found in `sdata.images`"),
        ({"shapes_key": "nope"}, KeyError, "Key `'nope'` not found in `sdata.shapes`"),
        ({"coordinate_system": "nope"}, ValueError, "Coordinate system 'nope' is not shared"),
        ({"key_added": "a/b"}, ValueError, "cannot be a name in SpatialData"),
        ({"key_added": "SPOTS"}, ValueError, "clashes with the element 'spots'"),
        ({"encoder": "nope"}, KeyError, "Key `'nope'` not found in `ds.encoders.available"),
        (
            {"subspots": "map"},
            KeyError,
            r"`'map'` not found in `subspots`. Available keys: \['tiles', 'tokens', 'nuclei'\]",
        ),
        ({"batch_size": -5}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ],
)
def test_bad_input_adds_and_embeds_nothing(sdata, cheap_encoder, arguments, error, message):
    with pytest.raises(error, match=message):
        ds.pp.embed(sdata, **({"encoder": cheap_encoder} | arguments))
    assert list(sdata.tables) == []
    assert cheap_encoder.n_tiles == 0


def test_an_encoder_that_breaks_adds_nothing(sdata, cheap_encoder):
    cheap_encoder.encode = lambda tiles: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ds.pp.embed(sdata, cheap_encoder)
    assert list(sdata.tables) == []


def test_border_tiles_are_padded_white(slide_of, cheap_encoder):
    sdata = slide_of(np.zeros((200, 200, 3), np.uint8), [[0.0, 0.0], [100.0, 100.0]], mpp=1.0, diameter_um=60)
    ds.pp.embed(sdata, cheap_encoder)
    parts = sdata["mean_color_spots"].obsm["subspots"][0].reshape(9, 9, 3).mean(axis=(1, 2))
    np.testing.assert_allclose(parts[[0, 1, 2, 3, 6]], 255 / 32)
    np.testing.assert_allclose(parts[8], 0)


def test_magnification_does_not_change_embeddings(slide_of, mean_color):
    coarse = slide_of(colored(), GRID, mpp=1.0, diameter_um=SIDE)
    fine = slide_of(colored(2), GRID * 2, mpp=0.5, diameter_um=SIDE)
    for sdata in (coarse, fine):
        ds.pp.embed(sdata, mean_color())
    np.testing.assert_array_equal(coarse["mean_color_spots"].X, fine["mean_color_spots"].X)
    np.testing.assert_array_equal(*(sdata["mean_color_spots"].obsm["subspots"] for sdata in (coarse, fine)))


def test_coarse_levels_are_used_where_they_are_fine_enough(slide_of, mean_color):
    sdata = slide_of(colored(4), GRID * 4, mpp=0.25, diameter_um=SIDE, scale_factors=[2, 2])
    encoder = mean_color(input_px=20)
    ds.pp.embed(sdata, encoder)
    assert encoder.seen[0].shape[1] == 60
    np.testing.assert_allclose(
        sdata["mean_color_spots"].X[3].reshape(9, 3), [part(3, k) for k in range(9)], atol=1 / 32
    )
    np.testing.assert_allclose(sdata["mean_color_spots"].obsm["spatial"], GRID * 4)


def test_the_embedded_encoder_is_robust_to_magnification(toy, slide_of):
    """At half the magnification the embedding is much closer to that of the same spot than to others."""
    from PIL import Image

    slide = toy["P1_S1"]
    coarse = slide["P1_S1_image"].transpose("y", "x", "c").to_numpy()[:500, :500]
    xy = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    xy = xy[(xy > 30).all(axis=1) & (xy < 470).all(axis=1)]
    fine = np.asarray(Image.fromarray(coarse).resize((2000, 2000), Image.Resampling.BICUBIC))
    half = fine.reshape(1000, 2, 1000, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    made = []
    for pixels, mpp in ((fine, 0.25), (half, 0.5)):
        sdata = slide_of(pixels, xy / mpp, mpp=mpp, diameter_um=55)
        ds.pp.embed(sdata, "lite0", subspots=False)
        made.append(sdata["lite0_spots"].X)
    mean = made[0].mean(axis=0)
    a, b = ((X - mean) / np.linalg.norm(X - mean, axis=1, keepdims=True) for X in made)
    similarity = a @ b.T
    assert len(xy) >= 6
    assert similarity.diagonal().min() > 0.9
    assert (similarity.argmax(axis=1) == np.arange(len(xy))).all()


def test_rows_follow_the_order_of_the_shapes(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder)
    sdata.shapes["spots"] = sdata["spots"].iloc[[3, 0, 5, 1, 2, 4]]
    ds.pp.embed(sdata, cheap_encoder, key_added="shuffled")
    np.testing.assert_array_equal(sdata["shuffled"].X, sdata["mean_color_spots"].X[[3, 0, 5, 1, 2, 4]])
    assert sdata["shuffled"].obs["spot_id"].tolist() == list("DAFBCE")


def test_tokens_take_one_tile_per_spot_and_decode_each_block_once(slide_of, exact_encoder):
    """Counts tiles and decoded blocks, with spots across the borders of blocks."""
    from collections import Counter

    import dask.array as da

    decoded = Counter()

    def count(block, block_info=None):
        decoded[block_info[None]["chunk-location"]] += 1
        return block

    sdata = slide_of(colored(), GRID, mpp=1.0, diameter_um=SIDE, chunks=(3, 64, 64))
    pixels = sdata["he"].data
    sdata["he"].data = da.map_blocks(count, pixels, dtype=pixels.dtype, meta=np.empty((0, 0, 0), np.uint8))
    made = {}
    for subspots in ("tiles", "tokens"):
        asked = exact_encoder.n_tiles
        decoded.clear()
        ds.pp.embed(sdata, exact_encoder, subspots=subspots, key_added=subspots)
        made[subspots] = exact_encoder.n_tiles - asked, dict(decoded)
    assert (made["tiles"][0], made["tokens"][0]) == (60, 6)
    assert made["tokens"][1] == made["tiles"][1]
    # Each block once for the fingerprint, and blocks with tiles once more.
    assert Counter(made["tokens"][1].values()) == {2: 15, 1: 5}


def test_tokens_change_subspots_and_not_the_spot(sdata, exact_encoder, log):
    ds.pp.embed(sdata, exact_encoder)
    asked = exact_encoder.n_tiles
    ds.pp.embed(sdata, exact_encoder, subspots="tokens")
    ds.pp.embed(sdata, exact_encoder, subspots="tokens")
    assert exact_encoder.n_tiles == asked + 6
    assert log[-1].startswith("Using sdata.tables['mean_color_spots_")
    tiles, tokens = (sdata[name] for name in sorted(sdata.tables))
    np.testing.assert_array_equal(tokens.X, tiles.X)
    np.testing.assert_array_equal(tokens.obsm["subspots"], tiles.obsm["subspots"])
    about = tokens.uns["deepspot"]
    assert about["geometry"] == {"tile_um": 60.0, "input_px": 32, "grid": 3, "subspots": "tokens"}
    assert about["subspots"] == "all"
    assert about["fingerprint"] != tiles.uns["deepspot"]["fingerprint"]


def test_another_version_of_tokens_embeds_again(sdata, exact_encoder, monkeypatch):
    ds.pp.embed(sdata, exact_encoder, subspots="tokens")
    monkeypatch.setattr("deepspot._features.feature_table.VERSION", 2)
    ds.pp.embed(sdata, exact_encoder, subspots="tokens")
    assert len(sdata.tables) == 2


def test_true_is_no_source_of_subspots(sdata, cheap_encoder):
    with pytest.raises(KeyError, match=r"Key `True` not found in `subspots`.*'tiles', 'tokens', 'nuclei'"):
        ds.pp.embed(sdata, cheap_encoder, subspots=True)
    assert list(sdata.tables) == []


def test_an_encoder_without_tokens_is_refused_before_reading(sdata, cheap_encoder, monkeypatch):
    monkeypatch.setattr("deepspot._sdata.view.pyramid_levels", lambda *_: pytest.fail("pixels were read"))
    with pytest.raises(
        ValueError, match=r"'mean_color' returns one vector.*`subspots='tiles'`.*`ds.encoders.register`"
    ):
        ds.pp.embed(sdata, cheap_encoder, subspots="tokens")
    assert list(sdata.tables) == []
    assert cheap_encoder.n_tiles == 0


def test_fingerprints_of_stored_tables_are_stable(slide_of, mean_color):
    """Tables in existing files are found again."""
    image = (np.add.outer(np.arange(80), np.arange(100))[..., None] % np.array([251, 241, 239])).astype(np.uint8)
    sdata = slide_of(image, [[40.0, 40.0], [60.0, 30.0]], mpp=1.0, diameter_um=30)
    encoder = mean_color(fingerprint="1")
    ds.pp.embed(sdata, encoder, key_added="all")
    ds.pp.embed(sdata, encoder, key_added="none", subspots=False)
    found = {name: table.uns["deepspot"]["fingerprint"] for name, table in sdata.tables.items()}
    assert found == {"all": "091e2591ef1bc2f5", "none": "df5d6a2b1403f182"}
