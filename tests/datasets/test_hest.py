import json
import warnings

import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.transforms import place_spots


def place_of(sdata, sample="TOY1"):
    return place_spots(sdata, f"{sample}_image", "spots")


def test_as_published(write_hest, tmp_path, toy_files, log):
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "hest"), download=False)
    assert list(sdata.images) == ["TOY1_image"]
    assert len(pyramid_levels(sdata, "TOY1_image")) == 2
    placement = place_of(sdata)
    np.testing.assert_allclose(placement.centers, toy_files.centers, atol=1e-6)
    assert placement.mpp == pytest.approx(toy_files.mpp * 1.002)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [55.0]
    table = sdata.tables["table"]
    assert table.X.dtype == np.int32
    np.testing.assert_array_equal(table.X.toarray(), np.asarray(toy_files.table.X.todense()))
    assert {column: table.obs[column].unique().tolist() for column in ("organ", "species", "sample", "technology")} == {
        "organ": ["Breast"],
        "species": ["Homo sapiens"],
        "sample": ["TOY1"],
        "technology": ["Visium"],
    }
    assert table.obs["patient"].unique().tolist() == ["Patient 5 of A study of toys"]
    facts = sdata.attrs["deepspot_dataset"]
    assert (facts["name"], facts["license"], facts["study"]) == ("HEST-1k", "CC BY-NC-SA 4.0", "A study of toys")
    assert log[-1].startswith("Read TOY1 of HEST-1k: 30 spots × ")


def test_no_pixel_is_read(write_hest, tmp_path, toy_files):
    folder = write_hest(tmp_path / "hest")
    sdata = ds.datasets.hest("TOY1", folder=folder)
    assert hasattr(sdata.images["TOY1_image"]["scale0"]["image"].data, "dask")
    pixels = sdata.images["TOY1_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, toy_files.image)


@pytest.mark.parametrize("where", ["data", "cache"])
def test_other_folders(write_hest, tmp_path, nothing_here, monkeypatch, where):
    if where == "data":
        monkeypatch.setenv("DEEPSPOT_DATA", str(tmp_path))
    write_hest(tmp_path / "hest" if where == "data" else nothing_here / "hest")
    assert "table" in ds.datasets.hest("TOY1", download=False).tables


def test_survives_a_store(write_hest, tmp_path):
    from spatialdata import read_zarr

    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "hest"))
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert again.attrs["deepspot_dataset"]["sample"] == "TOY1"
    assert place_of(again).mpp == pytest.approx(place_of(sdata).mpp)
    assert again.tables["table"].obs["patient"].nunique() == 1


def write_authors(folder, toy, *, shrunk, meta):
    from PIL import Image

    for name in ("h5ad", "image", "meta"):
        (folder / "data" / name).mkdir(parents=True)
    toy.authors(shrunk).write_h5ad(folder / "data/h5ad/TOY1.h5ad")
    Image.fromarray(toy.image[::shrunk, ::shrunk]).save(folder / "data/image/TOY1.png")
    (folder / "data/meta/TOY1.json").write_text(json.dumps(meta))
    return folder


def test_the_authors_layout_takes_its_scale_from_the_spots(nothing_here, tmp_path, toy_files):
    """The image is downscaled by two, the pixel size in the metadata is not, and x is the row."""
    meta = {"st_technology": "Visium", "pixel_size_um_estimated": toy_files.mpp, "spot_diameter_fullres": 59.8}
    folder = write_authors(tmp_path / "flat", toy_files, shrunk=2, meta=meta)
    placement = place_of(ds.datasets.hest("TOY1", folder=folder))
    assert placement.mpp == pytest.approx(2 * toy_files.mpp, rel=1e-3)
    np.testing.assert_allclose(placement.centers, toy_files.centers / 2, atol=1e-6)


def test_single_cells_are_refused(nothing_here, tmp_path, toy_files):
    folder = write_authors(tmp_path / "flat", toy_files, shrunk=1, meta={"cell_diameter": 20, "sample": "TOY1"})
    with pytest.raises(ValueError, match=r"TOY1 holds single cells \(TOY1\.json has 'cell_diameter'\)"):
        ds.datasets.hest("TOY1", folder=folder)


def test_missing_metadata(write_hest, tmp_path):
    folder = write_hest(tmp_path / "hest")
    (folder / "metadata/TOY1.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"not complete .*lacks \['metadata/TOY1.json'\], and `download=False`"):
        ds.datasets.hest("TOY1", folder=folder, download=False)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_broken_metadata(write_hest, tmp_path, text):
    folder = write_hest(tmp_path / "hest")
    (folder / "metadata/TOY1.json").write_text(text)
    with pytest.raises(ValueError, match=r"TOY1\.json is "):
        ds.datasets.hest("TOY1", folder=folder)


@pytest.mark.parametrize("comma", [".", ","])
def test_metadata_with_text_instead_of_numbers(write_hest, tmp_path, toy_files, comma):
    meta = {"pixel_size_um_estimated": str(toy_files.mpp).replace(".", comma), "st_technology": "Visium "}
    folder = write_hest(tmp_path / "hest", meta=meta)
    path = folder / "metadata/TOY1.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert place_of(ds.datasets.hest("TOY1", folder=folder)).mpp == pytest.approx(toy_files.mpp)


def test_one_spot(write_hest, tmp_path, toy_files):
    folder = write_hest(tmp_path / "hest", adata=toy_files.adata()[:1].copy())
    for options in ({}, {"mpp": toy_files.mpp, "diameter_um": 55}):
        assert ds.datasets.hest("TOY1", folder=folder, **options)["table"].n_obs == 1


@pytest.mark.parametrize("value", ["absent", None, float("nan"), 0, -1, "half", True])
def test_no_pixel_size(write_hest, tmp_path, toy_files, value):
    folder = write_hest(tmp_path / "hest", meta={"pixel_size_um_estimated": value})
    with pytest.raises(
        ValueError, match=r"TOY1\.json has no 'pixel_size_um_estimated'.* Pass `mpp=`; .* gives (\S+)\.$"
    ):
        ds.datasets.hest("TOY1", folder=folder)
    assert place_of(ds.datasets.hest("TOY1", folder=folder, mpp=toy_files.mpp)).mpp == pytest.approx(toy_files.mpp)


def test_pixel_size_against_pitch(write_hest, tmp_path, toy_files, log):
    folder = write_hest(tmp_path / "hest", meta={"pixel_size_um_estimated": toy_files.mpp / 2})
    with pytest.raises(ValueError, match=r"contradictory: TOY1\.json states .* the distance between the spots "):
        ds.datasets.hest("TOY1", folder=folder)
    ds.datasets.hest("TOY1", folder=folder, mpp=toy_files.mpp / 2)
    assert any("`mpp=" in line and "is used instead" in line for line in log)


def test_a_small_difference_is_logged(write_hest, tmp_path, toy_files, log):
    folder = write_hest(tmp_path / "hest", meta={"pixel_size_um_estimated": toy_files.mpp * 1.05})
    sdata = ds.datasets.hest("TOY1", folder=folder)
    assert place_of(sdata).mpp == pytest.approx(toy_files.mpp * 1.05)
    assert any("the first is used" in line for line in log)


def test_spatial_transcriptomics(write_hest, tmp_path, toy_files):
    meta = {"st_technology": "Spatial Transcriptomics", "inter_spot_dist": 200.0, "spot_diameter": 100.0}
    meta["pixel_size_um_estimated"] = 2 * toy_files.mpp
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "a", meta=meta))
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [100.0]
    impossible = meta | {"inter_spot_dist": 110.0, "spot_diameter": 150.0}
    folder = write_hest(tmp_path / "b", meta=impossible)
    with pytest.raises(ValueError, match=r"spots of 150 µm that are 110 µm apart.*`diameter_um=` and `mpp=`"):
        ds.datasets.hest("TOY1", folder=folder, diameter_um=110)
    sdata = ds.datasets.hest("TOY1", folder=folder, diameter_um=110, mpp=1.5 * toy_files.mpp)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [110.0]


def test_xenium_is_binned_in_squares(write_hest, tmp_path, toy_files, log):
    meta = {"st_technology": "Xenium", "inter_spot_dist": float("nan"), "spot_diameter": float("nan")}
    adata = toy_files.adata()
    names = adata.var_names.tolist()
    adata.var_names = [*names[:-2], "BLANK_0007", "NegControlProbe_00031"]
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "a", adata=adata, meta=meta))
    assert sdata.shapes["spots"]["diameter_um"].iloc[0] == pytest.approx(100, rel=0.02)
    assert sdata.tables["table"].var_names.tolist() == names[:-2]
    assert any("binned in squares of 100 µm" in line for line in log)
    assert any("2 of" in line and "BLANK_0007" in line for line in log)
    folder = write_hest(tmp_path / "b", meta=meta | {"pixel_size_um_estimated": 5.0})
    with pytest.raises(ValueError, match=r"squares of Xenium in this sample would be .* pass `mpp=`"):
        ds.datasets.hest("TOY1", folder=folder)


def test_unknown_technology(write_hest, tmp_path):
    folder = write_hest(tmp_path / "a", meta={"st_technology": "Slide-seq", "spot_diameter": None})
    with pytest.raises(ValueError, match=r"size of a spot is unknown.*'Slide-seq'.*`diameter_um=`"):
        ds.datasets.hest("TOY1", folder=folder)
    sdata = ds.datasets.hest("TOY1", folder=folder, diameter_um=20)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [20.0]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")  # while the file is made
def test_repeated_genes_are_numbered(write_hest, tmp_path, toy_files, log):
    adata = toy_files.adata()
    first, _, *others = adata.var_names
    adata.var_names = [first, first, *others]
    folder = write_hest(tmp_path / "hest", adata=adata)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Variable names are not unique")
        sdata = ds.datasets.hest("TOY1", folder=folder)
    assert sdata.tables["table"].var_names[:2].tolist() == [first, f"{first}-1"]
    assert any("occur more than once" in line for line in log)


def test_ensembl(write_hest, tmp_path, toy_files, log):
    adata = toy_files.adata()
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    folder = write_hest(tmp_path / "hest", adata=adata)
    ds.datasets.hest("TOY1", folder=folder)
    assert any("Ensembl identifiers" in line and "'symbol'" in line for line in log)
    sdata = ds.datasets.hest("TOY1", folder=folder, gene_id_key="symbol")
    assert sdata.tables["table"].var_names.tolist() == toy_files.table.var_names.tolist()


def test_logarithms_instead_of_counts(write_hest, tmp_path, toy_files):
    adata = toy_files.adata()
    counts = adata.X.copy()
    adata.X = csr_matrix(np.log1p(adata.X.toarray()))
    folder = write_hest(tmp_path / "a", adata=adata)
    with pytest.raises(ValueError, match=r"TOY1\.h5ad holds no raw counts, neither in X nor in layers\['counts'\]"):
        ds.datasets.hest("TOY1", folder=folder)
    adata.layers["counts"] = counts * 2.0**31
    with pytest.raises(ValueError, match="counts above 2,147,483,647"):
        ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "c", adata=adata))
    adata.layers["counts"] = counts
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "b", adata=adata))
    np.testing.assert_array_equal(sdata.tables["table"].X.toarray(), counts.toarray())


def test_spots_outside(write_hest, tmp_path, toy_files, log):
    adata = toy_files.adata()
    adata.obsm["spatial"][3, 0] = -20
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "a", adata=adata))
    assert sdata.tables["table"].obs_names.tolist() == np.delete(adata.obs_names, 3).tolist()
    assert any("1 of 30 spots of TOY1 are outside its image" in line for line in log)
    adata.obsm["spatial"][:, 0] += 1000
    with pytest.raises(ValueError, match="spots lie outside image 'TOY1_image'"):
        ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "b", adata=adata))
    adata.obsm["spatial"][0] = np.nan
    with pytest.raises(ValueError, match=r"1 of 30 spots have no finite coordinates in `obsm.*TOY1.h5ad"):
        ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "c", adata=adata))


def test_spots_off_tissue(write_hest, tmp_path, toy_files, log):
    adata = toy_files.adata()
    adata.obs["in_tissue"] = [0, 0] + [1] * 28
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "a", adata=adata))
    assert sdata.tables["table"].obs_names.tolist() == adata.obs_names[2:].tolist()
    assert any("2 of 30 spots of TOY1 are not in tissue" in line for line in log)


def test_columns_of_a_published_file(write_hest, tmp_path, toy_files):
    """Names that SpatialData does not accept, and names that differ by case from those that are added."""
    adata = toy_files.adata()
    adata.obs["CD4 (CD8)"], adata.obs["Organ"], adata.obs["Region"] = "x", "mine", "cortex"
    adata.obs["in_tissue"] = ["False", "False", *["True"] * 28]
    sdata = ds.datasets.hest("TOY1", folder=write_hest(tmp_path / "hest", adata=adata))
    obs = sdata.tables["table"].obs
    assert {"CD4__CD8_", "Organ_1", "Region"} <= set(obs)
    assert obs["organ"].unique().tolist() == ["Breast"]
    assert len(obs) == 28
    sdata.write(tmp_path / "a.zarr")


def test_files_of_macos(write_hest, tmp_path):
    folder = write_hest(tmp_path / "hest")
    (folder / "st/._TOY1.h5ad").write_bytes(b"Mac OS X")
    with pytest.raises(FileNotFoundError, match=r"Local samples: \['TOY1'\]"):
        ds.datasets.hest("TENX1", folder=folder, download=False)


def test_patients_of_studies(write_hest, tmp_path, log):
    folder = write_hest(tmp_path / "a", meta={"patient": None})
    patient = ds.datasets.hest("TOY1", folder=folder).tables["table"].obs["patient"].unique().tolist()
    assert patient == ["unknown of A study of toys"]
    assert any("count as one patient" in line for line in log)
    folder = write_hest(tmp_path / "b", meta={"patient": None, "dataset_title": float("nan")})
    assert "patient" not in ds.datasets.hest("TOY1", folder=folder).tables["table"].obs


def test_damaged_table(write_hest, tmp_path):
    folder = write_hest(tmp_path / "a")
    path = folder / "st/TOY1.h5ad"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"TOY1\.h5ad is damaged, incomplete or not a valid \.h5ad"):
        ds.datasets.hest("TOY1", folder=folder)
    AnnData(csr_matrix(np.eye(3))).write_h5ad(path)
    with pytest.raises(ValueError, match=r"has no obsm\['spatial'\]"):
        ds.datasets.hest("TOY1", folder=folder)


def test_damaged_image(write_hest, tmp_path):
    folder = write_hest(tmp_path / "a")
    (folder / "wsis/TOY1.tif").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"TOY1\.tif is damaged, incomplete or not a valid TIFF"):
        ds.datasets.hest("TOY1", folder=folder)


@pytest.mark.parametrize("tile", [{}, {"tile": (256, 256)}])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (lambda image: image[..., 1], {"photometric": "minisblack"}, "is gray"),
        (lambda image: image.astype(np.uint16) * 16, {"photometric": "rgb"}, "holds uint16"),
        (lambda image: image, {"photometric": "rgb", "extratags": [(274, "H", 1, 3, True)]}, "is turned or mirrored"),
    ],
)
def test_an_image_that_is_not_upright_rgb(write_hest, tmp_path, toy_files, content, options, message, tile):
    folder = write_hest(tmp_path / "a")
    tifffile.imwrite(folder / "wsis/TOY1.tif", content(toy_files.image), metadata=None, **tile, **options)
    with pytest.raises(ds.errors.InputError, match=rf"TOY1\.tif {message}"):
        ds.datasets.hest("TOY1", folder=folder)


@pytest.mark.parametrize(
    "arguments", [{"mpp": 0}, {"diameter_um": -1}, {"mpp": 353}, {"folder": 5}, {"folder": "~no-one"}]
)
def test_arguments_are_checked_first(nothing_here, arguments):
    message = (
        "must be above 0|353 µm per pixel|`folder` must be a path|`folder` is in the home folder of an unknown user"
    )
    with pytest.raises(ds.errors.DeepSpotError, match=message):
        ds.datasets.hest("TOY1", download=False, **arguments)


def test_not_here(write_hest, tmp_path):
    folder = write_hest(tmp_path / "hest")
    message = r"'TENX1' of HEST-1k is neither in .*hest, in DEEPSPOT_DATA \(not set\) .* Local samples: \['TOY1'\]"
    with pytest.raises(FileNotFoundError, match=message):
        ds.datasets.hest("TENX1", folder=folder, download=False)
    with pytest.raises(ValueError, match="must be the name of a sample"):
        ds.datasets.hest("../TOY1", folder=folder)


def test_downloads_what_is_missing(write_hest, hub):
    write_hest(hub.folder)
    ds.datasets.hest("TOY1", token="mine")
    assert [path for _, path, _ in hub.asked] == ["st/TOY1.h5ad", "metadata/TOY1.json", "wsis/TOY1.tif"]
    assert {(repo, token) for repo, _, token in hub.asked} == {("MahmoodLab/hest", "mine")}
    ds.datasets.hest("TOY1", download=False)
    assert len(hub.asked) == 3
    with pytest.raises(KeyError, match=r"'st/TOY2\.h5ad'` not found in HEST-1k.* HEST_v.* Local samples: \['TOY1'\]"):
        ds.datasets.hest("TOY2")


def test_training_on_a_sample(write_hest, tmp_path, toys, mean_color):
    for name, toy in toys.items():
        write_hest(tmp_path / "hest", name.replace("_", ""), toy=toy, meta={"patient": name})
    slides = {name: ds.datasets.hest(name, folder=tmp_path / "hest") for name in ("P1S1", "P2S1")}
    encoder = mean_color()
    for sdata in slides.values():
        ds.pp.embed(sdata, encoder)
    genes = slides["P1S1"].tables["table"].var_names[:8].tolist()
    tiny = {"members": 1, "width": 8}
    model = ds.models.train(
        slides, patient_key="patient", encoder=encoder, genes=genes, network=tiny, training={"max_epochs": 2}
    )
    assert {slide.patient for slide in model.card.slides} == {"P1_S1 of A study of toys", "P2_S1 of A study of toys"}
    ds.tl.predict(slides["P1S1"], model, encoder=encoder)
    assert slides["P1S1"].tables["deepspot_spots"].shape == (30, 8)
    assert isinstance(slides["P1S1"].tables["table"].obs["patient"].dtype, pd.CategoricalDtype)
