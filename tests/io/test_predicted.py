import shutil

import numpy as np
import pytest

import deepspot as ds
from deepspot.tl._predict import stream

INDEX = [3, 0]


@pytest.fixture(scope="module")
def quick_model_of_io(toy, mean_color):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    training = {"epochs": 1, "max_epochs": 1, "gate": "off"}
    network = {"width": 16, "members": 1}
    options = {"patient_key": "patient", "genes": 10, "encoder": mean_color(), "seed": 0}
    return ds.models.train(slides, network=network, training=training, **options)


@pytest.fixture(scope="module")
def predicted(toy, quick_model_of_io, mean_color, tmp_path_factory):
    """A slide with a streamed prediction, and its store. Read-only."""
    from spatialdata import deepcopy

    slide, store = deepcopy(toy["P1_S1"]), tmp_path_factory.mktemp("predicted") / "slide.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "ROWS", 7)
        patch.setattr(ds.settings, "embeddings_gb", 0)
        ds.tl.predict(slide, quick_model_of_io, encoder=mean_color(), out=store)
    return slide, store


@pytest.fixture
def known(predicted):
    """The table of the slide that was predicted. Read-only."""
    return predicted[0].tables["deepspot_spots"]


@pytest.fixture
def store(predicted, tmp_path):
    return shutil.copytree(predicted[1], tmp_path / "slide.zarr")


def test_x_is_lazy(store, known):
    table = ds.io.predicted(store).tables["deepspot_spots"]
    assert table.X.chunks == ((7, 7, 7, 7, 2), (10,))
    np.testing.assert_array_equal(np.asarray(table.X), np.asarray(known.X))
    assert table.obs.equals(known.obs)
    assert table.uns["deepspot"]["kind"] == "prediction"


def test_some_genes_in_memory(store, known, quick_model_of_io):
    genes = [quick_model_of_io.card.genes[i] for i in INDEX]
    table = ds.io.predicted(store, genes=genes).tables["deepspot_spots"]
    assert isinstance(table.X, np.ndarray)
    assert list(table.var_names) == genes
    np.testing.assert_array_equal(table.X, np.asarray(known.X)[:, INDEX])
    with pytest.raises(KeyError, match=r"NOGENE.*the store 'slide\.zarr'"):
        ds.io.predicted(store, genes="NOGENE")


def test_a_region_in_memory(store, slide, known, tmp_path):
    spots = slide.shapes["spots"]  # the toy has 1 µm per pixel
    x, y = spots.geometry.x, spots.geometry.y
    corners = (x.min() - 1, y.min() - 1, x.median(), y.max() + 1)
    part = ds.io.predicted(store, within_um=corners)
    inside = set(spots.index[x < x.median() - 28])
    assert inside <= set(part.shapes["spots"].index) < set(spots.index)
    table = part.tables["deepspot_spots"]
    assert set(table.obs["spot_id"]) == set(part.shapes["spots"].index)
    np.testing.assert_array_equal(table.X, np.asarray(known[table.obs_names].X))
    part.write(tmp_path / "part.zarr")
    with pytest.raises(ValueError, match=r"No spot of 'spots' is within .* The spots are within"):
        ds.io.predicted(store, within_um=(1e6, 1e6, 2e6, 2e6))
    with pytest.raises(ValueError, match="x_min, y_min, x_max, y_max"):
        ds.io.predicted(store, within_um=(5, 5, 1, 1))


def test_the_loaded_size_is_limited(store, quick_model_of_io, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-9)
    ds.io.predicted(store)
    with pytest.raises(ValueError, match=r"30 spots × 1 genes would take .*max_table_gb"):
        ds.io.predicted(store, genes=quick_model_of_io.card.genes[0])


def _chunk(store):
    return next(path for path in (store / "tables/deepspot_spots/X/c").rglob("*") if path.is_file())


def test_a_lost_chunk_is_an_error_and_not_zeros(slide, quick_model_of_io, cheap_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "ROWS", 7)
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    store = tmp_path / "slide.zarr"
    ds.tl.predict(slide, quick_model_of_io, encoder=cheap_encoder, out=store)
    opened = ds.io.predicted(store).tables["deepspot_spots"]
    _chunk(store).unlink()
    with pytest.raises(ValueError, match=r"slide\.zarr is damaged: 1 of 5 chunks of values were lost"):
        ds.io.predicted(store)
    for table in (opened, slide.tables["deepspot_spots"]):  # opened before
        assert np.isnan(np.asarray(table.X)).any()


PARTS = [
    "tables/deepspot_spots/var/_index",
    "tables/deepspot_spots/var/expected_r/c/0",
    "tables/deepspot_spots/obs/_index",
    "tables/deepspot_spots/obs/spot_id/c/0",
    "tables/deepspot_spots/obs/ood/c/0",
    "tables/deepspot_spots/obs/ood_score/zarr.json",
    "tables/deepspot_spots/obsm/spatial/c/0/0",
    "tables/deepspot_spots/uns/deepspot/kind/c",
    "tables/deepspot_spots/X/zarr.json",
    "shapes/spots/shapes.parquet",
    "shapes/spots/zarr.json",
]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_lost_or_changed_file_is_named(store, name, damage):
    """Zarr reads lost chunks as zeros, and does not notice changed ones."""
    file = store / name
    if file.is_dir():  # anndata 0.12 and 0.13 store text in different arrays
        file = next(file.rglob("c/0"))
        name = file.relative_to(store).as_posix()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"slide\.zarr is damaged: {name} was lost or changed\. Predict"):
        ds.io.predicted(store)


@pytest.mark.parametrize("name", ["tables/zarr.json", "tables/deepspot_spots/zarr.json"])
def test_a_store_without_its_metadata_is_damaged(store, name):
    (store / name).unlink()
    with pytest.raises(ValueError, match=r"slide\.zarr is damaged"):
        ds.io.predicted(store)


def test_elements_and_files_can_be_added(store):
    from spatialdata import read_zarr

    (store / "shapes" / ".DS_Store").touch()
    sdata = read_zarr(store)
    sdata.shapes["more"] = sdata.shapes["spots"]
    sdata.write_element("more")
    assert ds.io.predicted(store).tables["deepspot_spots"].n_obs == 30


def test_a_table_that_was_written_again_can_be_opened(store):
    from spatialdata import read_zarr

    sdata = read_zarr(store)
    sdata.tables["deepspot_spots"].obs["new"] = 1
    sdata.delete_element_from_disk("deepspot_spots")
    sdata.write_element("deepspot_spots")
    assert (ds.io.predicted(store).tables["deepspot_spots"].obs["new"] == 1).all()


def test_chunks_of_zeros_are_not_lost(slide, quick_model_of_io, cheap_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    monkeypatch.setattr(ds.models.DeepSpot, "predict", lambda self, bags, rows, **_: np.full((len(rows), 10), -1.0))
    ds.tl.predict(slide, quick_model_of_io, encoder=cheap_encoder, out=tmp_path / "zeros.zarr")
    assert not np.asarray(ds.io.predicted(tmp_path / "zeros.zarr").tables["deepspot_spots"].X).any()


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 1])
def test_a_changed_chunk_is_an_error(store, quick_model_of_io, share):
    path = _chunk(store)
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"slide\.zarr is damaged"):
        ds.io.predicted(store, genes=quick_model_of_io.card.genes[0])


def test_no_store(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    for name in ("nowhere.zarr", "empty.zarr"):
        with pytest.raises(FileNotFoundError, match=rf"no store .*{name}"):
            ds.io.predicted(tmp_path / name)


def test_a_region_needs_a_scale(store, monkeypatch):
    monkeypatch.setattr("deepspot.io._predicted.has_scale", lambda sdata, key: False)
    with pytest.raises(ValueError, match=r"no coordinate system 'microns'.*set_scale"):
        ds.io.predicted(store, within_um=(0, 0, 1, 1))


def test_a_map_needs_the_image_of_the_slide(store, slide, quick_model_of_io):
    gene = quick_model_of_io.card.genes[0]
    sdata = ds.io.predicted(store, genes=[gene])
    with pytest.raises(KeyError, match=r"The object has no image.*`sdata\[key\] = slide\[key\]`"):
        ds.pl.spatial(sdata, gene)
    sdata["P1_S1_image"] = slide["P1_S1_image"]
    assert len(ds.pl.spatial(sdata, gene)) == 1


def test_the_log_says_what_the_rows_are(store, log):
    ds.io.predicted(store)
    assert f"Opened {store}: 30 spots × 10 genes, on disk." in log
