import gzip

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot import settings
from deepspot._spatial.transforms import centers_px, microns_per_pixel

SLIDE = "TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-CDBC"
SIDE, SHRUNK = 40, 10
MPP = 0.2520


@pytest.fixture
def folder(write_tcga, tmp_path):
    write_tcga(tmp_path / "tcga")
    return tmp_path / "tcga"


def test_as_published(folder, predicted, toy_files, nothing_here, log):
    sdata = ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder, download=False)
    table = sdata.tables["deepspot_spots"]
    np.testing.assert_array_equal(table.X, np.maximum(predicted.X, 0).astype(np.float32))
    assert table.X.dtype == np.float32
    key = f"{SLIDE}_thumbnail_image"
    assert list(sdata.images) == [key]
    places = predicted.obs[["y_pixel", "x_pixel"]].to_numpy()
    np.testing.assert_allclose(table.obsm["spatial"], places)
    np.testing.assert_allclose(centers_px(sdata, key, "spots"), places / SHRUNK)
    assert microns_per_pixel(sdata, key) == pytest.approx(MPP * SHRUNK)
    assert sdata.shapes["spots"]["diameter_um"].unique() == pytest.approx([SIDE * MPP])
    np.testing.assert_allclose(sdata.shapes["spots"]["radius"], SIDE / 2)
    obs = table.obs
    told = {column: obs[column].unique().tolist() for column in ("sample", "patient", "cohort", "slide_type")}
    assert told == {"sample": [SLIDE], "patient": ["TCGA-BF-AAP6"], "cohort": ["TCGA_SKCM"], "slide_type": ["FFPE"]}
    assert {"array_row", "array_col", "predicted_label", "Tumor_cells_Probability"} <= set(obs)
    np.testing.assert_array_equal(obs["pxl_row_in_fullres"], predicted.obs["x_pixel"])
    assert "bulk_tpm_unstranded" not in table.var
    assert table.varm["bulk"]["bulk_tpm_unstranded"].tolist() == list(range(12))
    made = table.uns["deepspot"]
    assert made["kind"] == "prediction"
    assert made["model"] == "the authors' DeepSpot, trained on melanoma"
    assert sdata.attrs["deepspot_dataset"]["name"] == "the authors' TCGA predictions"
    assert list((nothing_here / "tcga").iterdir()) == []
    assert log[-1].startswith(f"Read {SLIDE}: ")


def test_survives_a_store(folder, tmp_path):
    from spatialdata import read_zarr

    sdata = ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder)
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr").tables["deepspot_spots"]
    assert again.uns["deepspot"]["fingerprint"] == sdata.tables["deepspot_spots"].uns["deepspot"]["fingerprint"]
    assert list(again.varm["bulk"].columns) == ["bulk_tpm_unstranded"]


def test_some_genes(folder, predicted):
    whole = ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder).tables["deepspot_spots"]
    some = ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder, genes=["GENE7", "GENE2"]).tables["deepspot_spots"]
    assert some.var_names.tolist() == ["GENE7", "GENE2"]
    np.testing.assert_array_equal(some.X, whole[:, ["GENE7", "GENE2"]].X)
    assert some.uns["deepspot"]["fingerprint"] == whole.uns["deepspot"]["fingerprint"]
    with pytest.raises(KeyError, match="`'GEN7'` is not among the 12 genes"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder, genes="GEN7")


def test_more_than_memory(folder, monkeypatch):
    monkeypatch.setattr(settings, "max_table_gb", 1e-9)
    with pytest.raises(ValueError, match="Choose fewer genes with `genes=`"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder)


def test_sparse_and_plain(write_tcga, predicted, tmp_path):
    predicted.X = csr_matrix(np.maximum(predicted.X, 0))
    packed = write_tcga(tmp_path, inside=f"{SLIDE}.h5ad.gz")
    plain = packed.with_suffix("")
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    sdata = ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)
    table = sdata.tables["deepspot_spots"]
    np.testing.assert_allclose(table.X, predicted.X.toarray(), rtol=1e-6)
    assert "cohort" not in table.obs
    assert table.uns["deepspot"]["model"] == "the authors' DeepSpot, cohort unknown"


def test_the_scale_is_required(folder):
    with pytest.raises(
        ValueError, match=r"scale of TCGA-BF-.* is unknown.*`mpp=`.*'aperio\.MPP'.*as at 40x: about 0\.25"
    ):
        ds.datasets.tcga(SLIDE, folder=folder)


def test_the_scale_may_be_in_the_file(write_tcga, predicted, tmp_path):
    predicted.uns["spatial"]["library_id"]["scalefactors"] = {"microns_per_pixel": 0.2465}
    write_tcga(tmp_path, predicted)
    sdata = ds.datasets.tcga(SLIDE, folder=tmp_path)
    assert microns_per_pixel(sdata, "spots") == pytest.approx(0.2465)


def test_an_unlikely_scale_is_logged(folder, log):
    ds.datasets.tcga(SLIDE, mpp=0.5, folder=folder)
    assert any("seems to be of 40x, with about 0.25" in line for line in log)


def test_without_an_image(write_tcga, predicted, tmp_path):
    del predicted.uns["spatial"]
    del predicted.obsm["spatial"]
    write_tcga(tmp_path, predicted)
    sdata = ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)
    assert not sdata.images
    assert microns_per_pixel(sdata, "spots") == pytest.approx(MPP)


def test_a_thumbnail_that_does_not_match_is_left_out(write_tcga, predicted, tmp_path, log):
    predicted.obsm["spatial"] = predicted.obsm["spatial"][:, ::-1].copy()
    write_tcga(tmp_path, predicted)
    assert not ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path).images
    assert any("does not match the positions" in line for line in log)


def test_positions_off_the_grid(write_tcga, predicted, tmp_path):
    predicted.obs["x_pixel"] = predicted.obs["x_pixel"] + np.arange(predicted.n_obs) % 7
    write_tcga(tmp_path, predicted)
    with pytest.raises(ValueError, match=r"do not follow the authors' grid.*`diameter_um=`"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)
    sdata = ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path, diameter_um=55)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [55.0]


def test_bad_values(write_tcga, predicted, tmp_path, log):
    def read(**changes):
        for name, value in changes.items():
            setattr(predicted, name, value)
        write_tcga(tmp_path, predicted)
        return ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)

    good = predicted.X.copy()
    with pytest.raises(ValueError, match="holds whole numbers"):
        read(X=np.round(good))
    broken = good.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        read(X=broken)
    read(X=good - 1.5)
    assert any("may be standardized" in line for line in log)
    read(X=good)
    with pytest.raises(ValueError, match="are not unique"):
        read(var_names=["GENE1"] * 12)


def test_counts_per_million_are_converted(write_tcga, predicted, tmp_path, log):
    rates = np.random.default_rng(0).dirichlet(np.ones(12), len(predicted))
    predicted.X = np.log1p(0.9e6 * rates)  # of some of the genes
    write_tcga(tmp_path, predicted)
    for genes in (None, ["GENE3", "GENE1"]):
        table = ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path, genes=genes).tables["deepspot_spots"]
        expected = rates[:, [predicted.var_names.get_loc(gene) for gene in table.var_names]]
        np.testing.assert_allclose(np.expm1(table.X), 0.9e4 * expected, rtol=1e-4, atol=1e-4)
        assert table.uns["deepspot"]["scale"] == "log1p of counts per 10,000"
        assert any("is log1p of counts per million and was converted" in line for line in log)


@pytest.mark.parametrize("total", [3e4, 1e8])
def test_unknown_scales_are_refused(write_tcga, predicted, tmp_path, total):
    predicted.X = np.log1p(np.full(predicted.shape, total / 12))
    write_tcga(tmp_path, predicted)
    with pytest.raises(ValueError, match=rf"unknown scale: `expm1` sums to {total:,.0f} counts per spot"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)


@pytest.mark.parametrize(
    ("cohort", "model"),
    [("TCGA_KIRC", "trained on kidney cancer"), ("TCGA_LUAD", "model of TCGA_LUAD")],
)
def test_the_model_is_named_by_its_training(write_tcga, tmp_path, cohort, model):
    write_tcga(tmp_path, inside=f"{cohort}/FFPE/{SLIDE}.h5ad.gz")
    table = ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path).tables["deepspot_spots"]
    assert table.uns["deepspot"]["model"] == f"the authors' DeepSpot, {model}"


def test_missing_columns(write_tcga, predicted, tmp_path):
    predicted.obs = predicted.obs.drop(columns="y_pixel")
    write_tcga(tmp_path, predicted)
    with pytest.raises(KeyError, match="`'y_pixel'` not found"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=tmp_path)


def test_incomplete_file(folder, nothing_here):
    path = folder / f"TCGA_SKCM/FFPE/{SLIDE}.h5ad.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=r"\.h5ad\.gz is damaged or incomplete"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:3000]))
    with pytest.raises(ValueError, match=r"\.h5ad is damaged, incomplete or not a valid \.h5ad"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder)
    assert list((nothing_here / "tcga").iterdir()) == []


def test_zip_bomb(folder, nothing_here):
    with pytest.raises(ValueError, match=r"unpacks to more than 1e-05 GB.*`max_gb=`"):
        ds.datasets.tcga(SLIDE, mpp=MPP, folder=folder, max_gb=1e-5)
    assert list((nothing_here / "tcga").iterdir()) == []


@pytest.fixture
def index(write_tcga, hub):
    """Write the index of the repository, with changes."""
    path = write_tcga(hub.folder).relative_to(hub.folder).as_posix()

    def write(**columns):
        rows = {"dataset": ["TCGA_SKCM"], "slide_type": ["FFPE"], "sample_id": [SLIDE], "file_path": [path]} | columns
        rows = {name: value for name, value in rows.items() if value is not None}
        pd.DataFrame(rows).to_csv(hub.folder / "metadata_2025-05-21.csv", index=False)

    write()
    return write


def test_downloads_by_the_index(index, hub):
    sdata = ds.datasets.tcga(SLIDE, mpp=MPP)
    assert [path for _, path, _ in hub.asked] == ["metadata_2025-05-21.csv", f"TCGA_SKCM/FFPE/{SLIDE}.h5ad.gz"]
    assert sdata.tables["deepspot_spots"].obs["cohort"].unique().tolist() == ["TCGA_SKCM"]
    ds.datasets.tcga(SLIDE, mpp=MPP, download=False)
    with pytest.raises(
        KeyError, match=rf"not found among the 1 .* Similar names: \['{SLIDE}'\].*Local samples: \['{SLIDE}'\]"
    ):
        ds.datasets.tcga(SLIDE[:-1], mpp=MPP)
    assert len(hub.asked) == 2


@pytest.mark.parametrize("path", ["../../etc/a.h5ad.gz", "/etc/a.h5ad.gz", "TCGA_SKCM/a.pkl", "a//b.h5ad"])
def test_paths_in_the_index_cannot_leave_the_folder(index, path):
    index(file_path=[path])
    with pytest.raises(ValueError, match="which is not the path of a prediction"):
        ds.datasets.tcga(SLIDE, mpp=MPP)


def test_an_unexpected_index(index, hub, nothing_here):
    index(sample_id=None)
    with pytest.raises(ValueError, match=r"has no column \['sample_id'\]"):
        ds.datasets.tcga(SLIDE, mpp=MPP)
    (nothing_here / "tcga/metadata_2025-05-21.csv").unlink()
    index(file_path=["TCGA_SKCM/FFPE/other.h5ad.gz"])
    with pytest.raises(KeyError, match=r"'TCGA_SKCM/FFPE/other\.h5ad\.gz'` not found .* metadata_2025"):
        ds.datasets.tcga(SLIDE, mpp=MPP)


def test_not_here(folder):
    with pytest.raises(FileNotFoundError, match=rf"`download=False`\..* Local samples: \['{SLIDE}'\]"):
        ds.datasets.tcga("TCGA-XX", mpp=MPP, folder=folder, download=False)
    with pytest.raises(ValueError, match="must be the name of a sample"):
        ds.datasets.tcga(f"TCGA_SKCM/FFPE/{SLIDE}", folder=folder)


def test_pseudobulk(folder, write_tcga, predicted):
    other = SLIDE.replace("AAP6", "AAP7")
    predicted.X = predicted.X + 0.5
    write_tcga(folder, predicted, inside=f"TCGA_SKCM/FFPE/{other}.h5ad.gz")
    slides = [ds.datasets.tcga(name, mpp=MPP, folder=folder) for name in (SLIDE, other)]
    profiles = ds.cohort.pseudobulk(slides)
    assert profiles.obs_names.tolist() == [SLIDE, other]
    np.testing.assert_allclose(profiles.X[1], slides[1]["deepspot_spots"].X.mean(axis=0), rtol=1e-5)
    assert profiles.uns["deepspot"]["model"] == "the authors' DeepSpot, trained on melanoma"
    assert profiles.obs["ood_share"].isna().all()
    write_tcga(folder, predicted, inside=f"TCGA_KIRC/FF/{other.replace('AAP7', 'AAP8')}.h5ad.gz")
    kidney = ds.datasets.tcga(other.replace("AAP7", "AAP8"), mpp=MPP, folder=folder)
    with pytest.raises(ValueError, match="were predicted by different models"):
        ds.cohort.pseudobulk([slides[0], kidney])
