"""Results on a GPU are those on the CPU, within the half precision of CUDA. Run with ``-m gpu``."""

import numpy as np
import pytest
import torch
from spatialdata import deepcopy

import deepspot as ds

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")),
]
pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("device", DEVICES)]


def relative(found, expected):
    expected = np.asarray(expected, dtype=np.float32)  # sub-spots are stored in half precision
    return float(np.abs(found - expected).max() / expected.std())


def test_embeddings(device, slide):
    tables = {}
    for where in ("cpu", device):
        sdata = deepcopy(slide)
        ds.pp.embed(sdata, device=where, key_added="features")
        tables[where] = sdata.tables["features"]
    assert relative(tables[device].X, tables["cpu"].X) < 0.1
    assert relative(tables[device].obsm["subspots"], tables["cpu"].obsm["subspots"]) < 0.1


def test_predictions(device, slide, tmp_path):
    expected, memory, streamed = deepcopy(slide), deepcopy(slide), deepcopy(slide)
    ds.tl.predict(expected, device="cpu")
    ds.tl.predict(memory, device=device)
    ds.tl.predict(streamed, device=device, out=tmp_path / "slide.zarr")
    known = expected.tables["deepspot_spots"]
    for sdata in (memory, streamed):
        table = sdata.tables["deepspot_spots"]
        assert relative(np.asarray(table.X), known[table.obs_names].X) < 0.05


@pytest.mark.parametrize("preset", ["default", "paper", "cell_sum"])
def test_training(device, toy, preset):
    fitted = {}
    for where in ("cpu", device):
        slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
        if preset == "cell_sum":
            for sdata in slides.values():
                ds.pp.nuclei(sdata)
        training = {} if preset == "cell_sum" else {"training": {"epochs": 3, "max_epochs": 3, "gate": "off"}}
        model = ds.models.train(
            slides, patient_key="patient", genes=10, preset=preset, seed=0, device=where, **training
        )
        ds.tl.predict(slides["P1_S1"], model, device="cpu")
        fitted[where] = np.asarray(slides["P1_S1"].tables["deepspot_spots"].X)
    # Random numbers of the devices differ, such as those of dropout, so that two trainings are only similar.
    assert np.isfinite(fitted[device]).all()
    assert np.corrcoef(fitted[device].ravel(), fitted["cpu"].ravel())[0, 1] > 0.9
