import numpy as np
import pytest

import deepspot as ds
from deepspot._spatial.transforms import microns_per_pixel, place_spots


def test_from_the_archive(archive_of, tmp_path, nothing_here, toy_files, log):
    folder = archive_of(tmp_path / "zenodo", "LC1", "KC2")
    sdata = ds.datasets.tls("LC1", folder=folder, download=False)
    placement = place_spots(sdata, "LC1_image", "spots")
    np.testing.assert_allclose(placement.centers, toy_files.centers)
    assert placement.mpp == pytest.approx(toy_files.mpp, rel=1e-3)
    assert sdata.shapes["spots"]["diameter_um"].unique().tolist() == [55.0]
    table = sdata.tables["table"]
    assert table.X.dtype == np.int32
    assert table.obs["ground_truth"].cat.categories.tolist() == ["TLS", "TUM"]
    assert {column: table.obs[column].iloc[0] for column in ("patient", "organ")} == {"patient": "LC1", "organ": "Lung"}
    assert sdata.attrs["deepspot_dataset"]["license"] == "CC BY 4.0"
    unpacked = sorted(path.relative_to(nothing_here).as_posix() for path in nothing_here.rglob("*") if path.is_file())
    assert unpacked == ["tls/TLS_VISIUM_USZ/h5ad_preprocessed/LC1.h5ad", "tls/TLS_VISIUM_USZ/tif_slides/LC1.tif"]
    (folder / "TLS_VISIUM_USZ.zip").unlink()
    ds.datasets.tls("LC1", download=False)
    assert not any("do not match" in line for line in log)


def test_poor_sections_are_logged(archive_of, tmp_path, log):
    ds.datasets.tls("KC2", folder=archive_of(tmp_path / "zenodo", "KC2"))
    assert any("excluded KC2 because" in line for line in log)


@pytest.mark.parametrize("where", ["h5ad_preprocessed/ tif_slides/", "data/h5ad/ data/image/", "h5ad/ image/", " "])
def test_unpacked(nothing_here, toy_files, tmp_path, where):
    from PIL import Image

    table, image = (tmp_path / "a" / part for part in where.split(" "))
    for path in (table, image):
        path.mkdir(parents=True, exist_ok=True)
    toy_files.authors().write_h5ad(table / "KC1.h5ad")
    Image.fromarray(toy_files.image).save(image / "KC1.tif")
    sdata = ds.datasets.tls("KC1", folder=tmp_path / "a", download=False)
    np.testing.assert_array_equal(sdata.images["KC1_image"].to_numpy().transpose(1, 2, 0), toy_files.image)


def test_a_stated_scale(archive_of, tmp_path):
    sdata = ds.datasets.tls("LC1", folder=archive_of(tmp_path, "LC1"), mpp=0.4)
    assert microns_per_pixel(sdata, "LC1_image") == pytest.approx(0.4)
    with pytest.raises(ValueError, match="`mpp` must be above 0"):
        ds.datasets.tls("LC1", folder=tmp_path, mpp=0)


def test_unknown(nothing_here):
    with pytest.raises(KeyError, match=r"`'LC9'` not found .* Available samples: \['KC1', 'KC2'"):
        ds.datasets.tls("LC9")
    with pytest.raises(ValueError, match="must be the name of a sample"):
        ds.datasets.tls("../LC1")


def test_not_here(nothing_here):
    with pytest.raises(FileNotFoundError, match=r"'LC1' .* is neither .* `download=False`\. .*TLS_VISIUM_USZ\.zip"):
        ds.datasets.tls("LC1", download=False)


def test_downloads_once(archive_of, web):
    archive_of(web.folder, "LC1", "LC2")
    for sample in ("LC1", "LC2"):
        assert len(ds.datasets.tls(sample).shapes["spots"]) == 30
    assert web.asked == ["doi:10.5281/zenodo.14620362/TLS_VISIUM_USZ.zip"]


def test_a_damaged_archive(archive_of, tmp_path):
    folder = archive_of(tmp_path / "zenodo", "LC1")
    path = folder / "TLS_VISIUM_USZ.zip"
    with pytest.raises(ValueError, match=r"has no 'TLS_VISIUM_USZ/h5ad_preprocessed/LC2\.h5ad'"):
        ds.datasets.tls("LC2", folder=folder)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"TLS_VISIUM_USZ\.zip is damaged or incomplete"):
        ds.datasets.tls("LC1", folder=folder)
