import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepspot.datasets._her2st import IMAGES, SHA256, files, her2st, microns_per_pixel, read_prepared, read_raw

DATA = Path(os.environ.get("DEEPSPOT_DATA", "nowhere"))
needs_raw = pytest.mark.skipif(
    not (DATA / "her2st_raw").is_dir(), reason="needs section C2 as published, in $DEEPSPOT_DATA/her2st_raw"
)
needs_prepared = pytest.mark.skipif(
    not (DATA / "her2st").is_dir(), reason="needs the prepared section C2, in $DEEPSPOT_DATA/her2st"
)


@pytest.fixture
def tiny(web):
    """A section in the layout of the authors' repository, with one spot off the tissue and one never sequenced."""
    from PIL import Image

    paths = {part: web.folder / path for part, path in files("A1").items()}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    x, y = (axis.ravel() + 2 for axis in np.meshgrid(range(4), range(3)))
    table = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.01, "new_y": y - 0.01, "pixel_x": 250.0 * x - 300.5})
    table["pixel_y"] = 250.0 * y - 300
    table["selected"] = [0] + [1] * 11
    table.to_csv(paths["spots"], sep="\t", index=False)
    names = (table["x"].astype(str) + "x" + table["y"].astype(str))[:-1][::-1]  # another order, and one missing
    pd.DataFrame({"ERBB2": np.arange(11), "ACTB": 1}, index=names).to_csv(paths["counts"], sep="\t")
    Image.new("RGB", (1200, 1000), (240, 200, 220)).save(paths["image"])
    return paths


def test_all_sections():
    assert len(IMAGES) == 36
    assert IMAGES["C3"] == "5714_HE_BT_D1.jpg"
    assert IMAGES["G2"] == "HE_BT23903_C2a.jpg"
    assert {path for section in ("B4", "C2", "C3", "C4", "C5") for path in files(section).values()} == set(SHA256)


def test_unknown_section():
    with pytest.raises(KeyError, match=r"Section `'Z1'` not found .* Available sections: \['A1'"):
        her2st("Z1")


def test_raw_is_matched_by_name(tiny):
    adata, mpp = read_raw(tiny, "A1")
    assert adata.n_obs == 10  # 12, less the one not selected and the one without counts
    assert mpp == pytest.approx(0.8)
    spot = adata["A1_3x2"]
    assert spot.X.toarray().tolist() == [[9, 1]]
    assert spot.obsm["spatial"].tolist() == [[449.5, 200.0]]
    assert spot.obs[["array_row", "array_col"]].to_numpy().tolist() == [[2, 3]]


def test_scale_resists_outliers_and_refuses_distortion(tiny):
    spots = pd.read_csv(tiny["spots"], sep="\t")
    spots.loc[0, "pixel_x"] = 9000
    assert microns_per_pixel(spots, "A1") == pytest.approx(0.8, rel=1e-3)
    spots["pixel_y"] *= 1.1
    with pytest.raises(ValueError, match=r"0\.8 µm per pixel along x but 0\.727"):
        microns_per_pixel(spots, "A1")


def test_without_download(nothing_here):
    with pytest.raises(FileNotFoundError, match=r"'A1' .* is neither in DEEPSPOT_DATA \(not set\) nor in the cache"):
        her2st("A1", download=False)


def test_downloads_once_and_reads_as_raw(tiny, web):
    sdata = her2st("A1")
    assert sdata.tables["table"].n_obs == 10
    url = "https://github.com/almaan/her2st/raw/85df7411b987a7dec3feff9718b869a7a82091ec/"
    assert web.asked == [url + path for path in files("A1").values()]
    her2st("A1", download=False)
    assert len(web.asked) == 3


def test_known_files_are_verified(web, nothing_here):
    path = web.folder / files("C4")["counts"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"hash of downloaded file \(C4\.tsv\.gz\) does not match"):
        her2st("C4")
    assert not [path for path in nothing_here.rglob("*") if path.is_file()]


@needs_raw
@needs_prepared
def test_raw_equals_prepared():
    raw, mpp = read_raw({part: DATA / "her2st_raw" / path for part, path in files("C2").items()}, "C2")
    prepared, prepared_mpp = read_prepared({"table": DATA / "her2st" / "C2.h5ad"}, "C2")
    assert set(raw.obs_names) == set(prepared.obs_names)
    assert set(raw.var_names) == set(prepared.var_names)
    prepared = prepared[raw.obs_names, raw.var_names]
    np.testing.assert_array_equal(raw.X.toarray(), prepared.X.toarray())
    assert raw.obs[["array_row", "array_col"]].equals(prepared.obs[["array_row", "array_col"]])
    shift = raw.obsm["spatial"] - prepared.obsm["spatial"]
    np.testing.assert_allclose(shift, np.tile(shift[0], (len(shift), 1)), atol=0.01)  # the crop moves, and no more
    assert mpp == pytest.approx(0.69, rel=0.005)
    assert prepared_mpp == pytest.approx(mpp, rel=0.005)


@needs_raw
def test_published_section():
    sdata = her2st("C2", download=False)
    assert sdata.tables["table"].shape == (187, 15706)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [100.0]
    assert "C2_image" in sdata.images


@needs_prepared
@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler", "ignore:zarr v3 autosharding")  # on writing
def test_prepared_section(tmp_path, monkeypatch):
    import spatialdata

    (tmp_path / "her2st").symlink_to(DATA / "her2st")
    monkeypatch.setenv("DEEPSPOT_DATA", str(tmp_path))
    sdata = her2st("C3", download=False)
    table = sdata.tables["table"]
    assert table.n_obs == 180
    assert {"array_row", "array_col", "patient", "section", "cluster"} <= set(table.obs)
    assert "celltype_major" in table.obsm
    sdata.write(tmp_path / "c3.zarr")
    assert spatialdata.read_zarr(tmp_path / "c3.zarr").tables["table"].shape == table.shape
