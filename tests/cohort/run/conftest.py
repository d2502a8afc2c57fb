import numpy as np
import pandas as pd
import pytest
import tifffile

import deepspot as ds

QUICK = {
    "network": {"width": 16, "members": 1},
    "training": {"epochs": 3, "max_epochs": 3, "gate": "record"},
    "seed": 0,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, encoder):
    """Use a separate cache for each test, and an encoder that was not used: it keeps its tiles, and is sent around."""
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    encoder.seen.clear()


@pytest.fixture(scope="session")
def model(toy, mean_color):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    return ds.models.train(slides, patient_key="patient", genes=10, encoder=mean_color(), **QUICK)


@pytest.fixture(scope="session")
def encoder(mean_color):
    return mean_color()


@pytest.fixture(scope="session")
def write_tiff():
    """Write an image (height, width, 3) as a tiled TIFF of 1 µm per pixel by default."""

    def write(path, image, mpp=1.0):
        scale = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None, **scale)
        return path

    return write


@pytest.fixture(scope="session")
def files(toy, tmp_path_factory, write_tiff):
    """Two slides, and four that fail: white, of unknown scale, gray, truncated. Read-only."""
    folder = tmp_path_factory.mktemp("slides")
    images = {
        name: np.ascontiguousarray(sdata.images[f"{name}_image"].to_numpy().transpose(1, 2, 0))
        for name, sdata in toy.items()
    }
    for name, image in images.items():
        write_tiff(folder / f"{name}.tiff", image)
    image = images["P1_S1"]
    write_tiff(folder / "white.tiff", np.full_like(image, 250))
    write_tiff(folder / "no_scale.tiff", image, mpp=None)
    tifffile.imwrite(folder / "gray.tiff", image[..., 0], tile=(256, 256), photometric="minisblack")
    whole = (folder / "P1_S1.tiff").read_bytes()
    (folder / "cut_off.tiff").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def manifest(files):
    return pd.DataFrame({"path": [str(files / f"P{i}_S1.tiff") for i in (1, 2)], "patient": ["P1", "P2"]})


@pytest.fixture
def run(model, encoder, manifest, tmp_path):
    """Run the cohort of two slides, or another one."""

    def run(rows=None, out=None, **options):
        options = {"model": model, "encoder": encoder, **options}
        return ds.cohort.run(manifest if rows is None else rows, out=out or tmp_path / "out", **options)

    return run
