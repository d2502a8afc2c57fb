"""Models of cells that are trained on slides."""

import json
from copy import copy

import numpy as np
import pytest
from spatialdata import deepcopy

import deepspot as ds
from deepspot.models import CellSum, DeepCell, DeepSpot2Cell

NUCLEI = {"cell_sum": CellSum, "deepspot2cell": DeepSpot2Cell}
SMALL = {"width": 16, "dropout": 0.0}
QUICK = {"epochs": 4, "max_epochs": 4, "spots_per_step": 16, "lr": 1e-2}
SPOTS = {"shapes_key": "spots", "table_key": "table"}


@pytest.fixture(scope="module")
def slides():
    """Toy slides of three patients, whose cells have the name of nuclei."""
    made = ds.datasets.toy(3, n_rows=5, n_cols=6, n_genes=12, cells=True, mpp=0.5)
    for name, slide in made.items():
        slide.shapes[f"{name}_image_nuclei"] = slide["cells"]
    return made


def options(preset, mean_color):
    network = SMALL if preset == "cell_sum" else SMALL | {"n_ensemble": 2}
    return {"preset": preset, "genes": 8, "encoder": mean_color(), "network": network, "training": QUICK, "keys": SPOTS}


@pytest.fixture(scope="module", params=NUCLEI)
def trained(request, slides, mean_color):
    own = {name: deepcopy(slide) for name, slide in slides.items() if name != "P3_S1"}
    # Both slides have nuclei of one name, which the model keeps.
    for name, slide in own.items():
        slide.shapes["nuclei"] = slide.shapes.pop(f"{name}_image_nuclei")
    known = options(request.param, mean_color)
    known["keys"] = SPOTS | {"nuclei_key": "nuclei"}
    return own, ds.models.train(own, patient_key="patient", **known)


def test_the_card_of_a_model_of_cells(trained):
    own, model = trained
    card = model.card
    assert isinstance(model, NUCLEI[card.preset])
    assert [slide.patient for slide in card.slides] == ["P1", "P2"]
    assert card.reliability.unit == "patients"
    assert np.nanmean(np.array(card.reliability.r, dtype=float)) > 0.1
    assert len(card.reliability.dispersion) == len(card.reliability.r_ceiling) == 8
    assert (card.geometry.tile.subspots, card.geometry.tile.nuclei_key) == ("nuclei", "nuclei")
    assert (card.network.width, card.training["lr"], card.epochs) == (16, 1e-2, model.n_epochs)
    assert repr(model).startswith(f"{type(model).__name__} 'deepspot': 8 genes from mean_color, tiles of 55 µm")
    assert 'resolution="cell"' in card.to_markdown()
    assert "mean_color_spots" in next(iter(own.values())).tables


def test_a_loaded_model_predicts_the_same(trained, mean_color, tmp_path):
    own, model = trained
    model.save(tmp_path / "model")
    model.save(tmp_path / "half", half_precision=True)
    loaded, slide = ds.models.load(tmp_path / "model"), deepcopy(own["P1_S1"])
    assert type(loaded) is type(model)
    assert (loaded.fingerprint, loaded.architecture) == (model.fingerprint, model.architecture)
    known = {"original": model, "loaded": loaded, "half": ds.models.load(tmp_path / "half")}
    for key, each in known.items():
        ds.tl.predict(slide, each, shapes_key="spots", encoder=mean_color(), key_added=key)
    np.testing.assert_array_equal(slide["loaded"].X, slide["original"].X)
    np.testing.assert_array_equal(slide["loaded"].obs["ood_score"], slide["original"].obs["ood_score"])
    np.testing.assert_allclose(slide["half"].X, slide["original"].X, atol=0.02)
    assert np.abs(slide["half"].X - slide["original"].X).max() > 0


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("network", "width"), 10**12, "numbers, more than"),
        (("network", "n_ensemble"), 10**6, "less than or equal to 100"),
        (("dim",), 10**9, "numbers, more than"),
        (("network", "system"), "deepcell", "`preset` must be that of the network"),
        (("network", "n_phi"), 3, "not permitted"),
    ],
)
def test_a_card_beyond_the_limits_is_refused(trained, tmp_path, where, value, message):
    trained[1].save(tmp_path / "model")
    path = tmp_path / "model" / "card.json"
    content = json.loads(path.read_text())
    if where == ("dim",):
        content |= {"encoder": None, "geometry": None}
    inner = content if len(where) == 1 else content[where[0]]
    inner[where[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        ds.models.load(tmp_path / "model")


def test_a_model_of_cells_is_calibrated_and_saved(trained, slides, mean_color, tmp_path):
    model, slide = trained[1], deepcopy(slides["P3_S1"])
    slide.shapes["nuclei"] = slide["cells"]
    made = ds.models.calibrate(model, slide, keys=SPOTS, encoder=mean_color())
    assert type(made) is type(model)
    assert made.fingerprint != model.fingerprint
    made.save(tmp_path / "model")
    assert ds.models.load(tmp_path / "model").fingerprint == made.fingerprint


def test_a_fit_to_arrays_forgets_the_card(trained):
    model = copy(trained[1])
    bags = ds.models.Bags(np.eye(6, dtype=np.float32), np.ones((6, 2, 6), np.float32), np.eye(6, k=1) > 0)
    model.fit(bags, np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match="was not trained on slides"):
        _ = model.card


def test_the_scale_of_the_targets_is_that_of_the_rates(slides, mean_color):
    known = options("cell_sum", mean_color)
    known["keys"] = SPOTS | {"normalize": "log1p_counts"}
    slide = deepcopy(slides["P1_S1"])
    model = ds.models.train(slide, **known)
    assert model.scale == "log1p_counts"
    spots, nuclei = slide["spots"], slide["P1_S1_image_nuclei"]
    tissue = spots.geometry.buffer(spots["radius"])  # at 0.5 µm per pixel, as the nuclei
    inside = [nuclei.geometry.centroid.within(spot).sum() for spot in tissue]
    assert float(model.network.n_cells) == pytest.approx(np.mean(inside), rel=0.01)
    assert model.card.scale == "log1p of raw counts"


def test_deepcell_learns_from_cells(mean_color):
    known = options("deepcell", mean_color)
    known["keys"] = {"shapes_key": "cells", "table_key": "table_cells"}
    known["training"] = QUICK | {"spots_per_step": 128}  # here a spot is a cell, and there are hundreds of them
    slide = ds.datasets.toy(1, n_rows=3, n_cols=3, n_genes=12, cells=True)["P1_S1"]
    model = ds.models.train(slide, tiles={"tile_um": 40}, **known)
    assert isinstance(model, DeepCell)
    assert model.card.reliability.unit == "blocks"
    ds.tl.predict(slide, model, shapes_key="cells", encoder=mean_color())
    assert slide["deepspot_cells"].n_obs == len(slide["cells"])
    with pytest.raises(ValueError, match=r"was trained on cells, .*`resolution='spot'`"):
        ds.tl.predict(slide, model, resolution="cell", shapes_key="cells", encoder=mean_color())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"depth": 3}}, r"`network` of preset 'cell_sum' has no parameters \['depth'\].*'width'"),
        ({"training": {"width": 3}}, r"`training` of preset 'cell_sum' has no parameters \['width'\].*'lr'"),
        ({"network": {"width": 0}}, "`width` must be"),
        ({"tiles": {"subspots": "tokens"}}, "must not set `subspots` to 'tokens'"),
        ({"tiles": {"subspots": "tiles"}}, "must not set `subspots` to 'tiles'"),
        ({"trainer_kwargs": {}}, "Lightning does not train"),
        ({"preset": "cells"}, "Available keys.*'cell_sum'"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_embedded(slides, mean_color, change, message):
    slide = slides["P1_S1"]
    with pytest.raises((ValueError, KeyError), match=message):
        ds.models.train(slide, **options("cell_sum", mean_color) | change)
    assert not [key for key in slide.tables if key.startswith("mean_color")]


def test_slides_without_nuclei_are_refused(slides, mean_color):
    slide = deepcopy(slides["P1_S1"])
    del slide.shapes["P1_S1_image_nuclei"]
    with pytest.raises(KeyError, match=r"`ds\.pp\.nuclei\(sdata\)`"):
        ds.models.train(slide, **options("cell_sum", mean_color))


def test_a_model_that_was_fitted_to_arrays_predicts_no_slide(slides):
    bags = ds.models.Bags(np.eye(6, dtype=np.float32), np.ones((6, 2, 6), np.float32), np.eye(6, k=1) > 0)
    model = CellSum(width=4, epochs=1).fit(bags, np.ones((6, 2), np.float32))
    with pytest.raises(ValueError, match=r"not trained on slides.*preset='cell_sum'"):
        ds.tl.predict(slides["P1_S1"], model)
