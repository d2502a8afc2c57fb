import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepspot import settings
from deepspot.datasets._her2st import her2st
from deepspot.datasets._her2st.her2st import IMAGES, SHA256, files, microns_per_pixel, read_prepared, read_raw

DATA = Path(os.environ.get("DEEPSPOT_DATA", "nowhere"))
needs_raw = pytest.mark.skipif(
    not (DATA / "her2st_raw").is_dir(), reason="needs section C2 as published, in $DEEPSPOT_DATA/her2st_raw"
)
needs_prepared = pytest.mark.skipif(
    not (DATA / "her2st").is_dir(), reason="needs the prepared section C2, in $DEEPSPOT_DATA/her2st"
)


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSPOT_DATA", raising=False)
    monkeypatch.setattr(settings, "cache_dir", tmp_path)
    return tmp_path


@pytest.fixture
def tiny(tmp_path):
    """A section in the layout of the authors' repository, with one spot off the tissue and one never sequenced."""
    from PIL import Image

    for path in files("A1"):
        (tmp_path / "source" / path).parent.mkdir(parents=True)
    counts, spots, image = (tmp_path / "source" / path for path in files("A1"))
    x, y = (axis.ravel() + 2 for axis in np.meshgrid(range(4), range(3)))
    table = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.01, "new_y": y - 0.01, "pixel_x": 250.0 * x - 300.5})
    table["pixel_y"] = 250.0 * y - 300
    table["selected"] = [0] + [1] * 11
    table.to_csv(spots, sep="\t", index=False)
    names = (table["x"].astype(str) + "x" + table["y"].astype(str))[:-1][::-1]  # another order, and one missing
    pd.DataFrame({"ERBB2": np.arange(11), "ACTB": 1}, index=names).to_csv(counts, sep="\t")
    Image.new("RGB", (1200, 1000), (240, 200, 220)).save(image)
    return tmp_path / "source"


def test_all_sections():
    assert len(IMAGES) == 36
    assert IMAGES["C3"] == "5714_HE_BT_D1.jpg"
    assert IMAGES["G2"] == "HE_BT23903_C2a.jpg"
    assert {path for section in ("B4", "C2", "C3", "C4", "C5") for path in files(section)} == set(SHA256)


def test_unknown_section():
    with pytest.raises(KeyError, match=r"Section `'Z1'` not found .* Available sections: \['A1'"):
        her2st("Z1")


def test_raw_is_matched_by_name(tiny):
    adata, image, mpp = read_raw(tiny, "A1")
    assert adata.n_obs == 10  # 12, less the one not selected and the one without counts
    assert mpp == pytest.approx(0.8)
    assert image.name == IMAGES["A1"]
    spot = adata["A1_3x2"]
    assert spot.X.toarray().tolist() == [[9, 1]]
    assert spot.obsm["spatial"].tolist() == [[449.5, 200.0]]
    assert spot.obs[["array_row", "array_col"]].to_numpy().tolist() == [[2, 3]]


def test_scale_resists_outliers_and_refuses_distortion(tiny):
    spots = pd.read_csv(tiny / files("A1")[1], sep="\t")
    spots.loc[0, "pixel_x"] = 9000
    assert microns_per_pixel(spots, "A1") == pytest.approx(0.8, rel=1e-3)
    spots["pixel_y"] *= 1.1
    with pytest.raises(ValueError, match=r"0\.8 µm per pixel along x but 0\.727"):
        microns_per_pixel(spots, "A1")


def test_without_download(nothing_here):
    with pytest.raises(FileNotFoundError, match=r"'A1' is neither in DEEPSPOT_DATA \(not set\) nor in the cache"):
        her2st("A1", download=False)


def test_offline(nothing_here, monkeypatch):
    import pooch

    def fail(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(ConnectionError, match=r"could not be downloaded .* DEEPSPOT_DATA") as caught:
        her2st("C3")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_downloads_once_and_reads_as_raw(nothing_here, tiny, monkeypatch):
    import pooch

    asked = []

    def fetch(url, known_hash, fname, path):
        asked.append((url, known_hash))
        path.mkdir(parents=True)
        shutil.copy(tiny / Path(url.split("/raw/")[1].split("/", 1)[1]), path / fname)

    monkeypatch.setattr(pooch, "retrieve", fetch)
    sdata = her2st("A1")
    assert sdata.tables["table"].n_obs == 10
    assert len(asked) == 3
    assert asked[0] == (
        "https://github.com/almaan/her2st/raw/85df7411b987a7dec3feff9718b869a7a82091ec/data/ST-cnts/A1.tsv.gz",
        None,
    )
    her2st("A1", download=False)
    assert len(asked) == 3


def test_known_files_are_verified(nothing_here, monkeypatch):
    import pooch

    hashes = []

    def fetch(url, known_hash, fname, path):
        hashes.append(known_hash)
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", fetch)
    with pytest.raises(ConnectionError):
        her2st("C4")
    assert hashes == ["sha256:" + SHA256["data/ST-cnts/C4.tsv.gz"]]


@needs_raw
@needs_prepared
def test_raw_equals_prepared():
    raw, _, mpp = read_raw(DATA / "her2st_raw", "C2")
    prepared, _, prepared_mpp = read_prepared(DATA / "her2st", "C2")
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
