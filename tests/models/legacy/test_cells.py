"""Checkpoints of DeepCell."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import deepspot as ds

from .conftest import FILES

YAML = "image_feature_model: tiny\nn_neighbors: 9\ncell_diameter: 20\ncell_context: {}\n"


def bags_of(cell, near):
    """Bags in which the first n cells have neighbors that nobody else has."""
    n, k, d = near.shape
    links = np.ones(n * k, bool), (np.repeat(np.arange(n), k), n + np.arange(n * k))
    tiles = np.concatenate([cell, near.reshape(n * k, d)])
    return ds.models.Bags(tiles, None, csr_matrix(links, shape=(n + n * k,) * 2))


@pytest.fixture
def tiles():
    rng = np.random.default_rng(1)
    return rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(7, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["max", "mean", "sum"])
@pytest.mark.parametrize("context", ["cell", "cell_neighbors"])
def test_a_deepcell_predicts_as_the_authors_network(authors, publish, scaler, tiles, context, pooling):
    torch.manual_seed(0)
    network = authors.DeepCell(cell_context=context, agg_neighbors=pooling, scaler=scaler).eval()
    taken = tiles if context == "cell_neighbors" else tiles[:1]
    with torch.inference_mode():
        scores = network._forward_fn(*map(torch.from_numpy, taken)).numpy()
    model = ds.models.convert_legacy(publish(network, settings=YAML.format(context)), tile_um=10)
    predicted = model.predict(bags_of(*tiles), rows=np.arange(7))
    np.testing.assert_allclose(predicted, scaler.inverse_transform(scores), atol=1e-5)
    assert isinstance(model, ds.models.DeepCell)
    rule = model.geometry.neighbors
    assert (rule.reach, rule.cap, model.geometry.tile.tile_um) == (4.5, 8, 10)  # 9 pixels of half a µm


def test_the_published_vectors(authors, publish, tmp_path, vector):
    folder = vector.parent / "deepcell"
    known, inputs, parameters = (dict(np.load(folder / f"{name}.npz")) for name in ("expected", "inputs", "parameters"))
    network = authors.DeepCell(24, 20, phi2rho_size=16, n_ensemble=4).eval()
    network.load_state_dict({name: torch.from_numpy(parameters[name]) for name in network.state_dict()})
    genes = [f"GENE{i}" for i in range(20)]
    model = ds.models.convert_legacy(publish(network, genes=genes, settings=YAML.format("cell_neighbors")), tile_um=10)
    predicted = model.predict(bags_of(inputs["x_cell"][:, 0], inputs["x_neighbors"]), rows=np.arange(6))
    np.testing.assert_allclose(predicted, known["pred_max"], atol=1e-5)
    model.save(tmp_path / "bundle")
    loaded = ds.models.load(tmp_path / "bundle")
    assert loaded.fingerprint == model.fingerprint
    again = loaded.predict(bags_of(inputs["x_cell"][:, 0], inputs["x_neighbors"]), rows=np.arange(6))
    np.testing.assert_array_equal(again, predicted)


def test_the_side_of_a_tile_is_asked_for(authors, publish):
    folder = publish(authors.DeepCell(), settings=YAML.format("cell_neighbors"))
    with pytest.raises(ValueError, match=r"cell_diameter=20\)\. Pass `tile_um=`"):
        ds.models.convert_legacy(folder)


def test_what_does_not_fit_is_refused(authors, publish):
    with pytest.raises(ValueError, match="Phi has other layers"):
        ds.models.convert_legacy(publish(authors.DeepCell(deep=True)), tile_um=10)
    with pytest.raises(ValueError, match=r"cell_context='cell_neighbors', but .* has 'cell'"):
        ds.models.convert_legacy(publish(authors.DeepCell(), settings=YAML.format("cell")), tile_um=10)
    wrong = YAML.format("cell_neighbors").replace("20", "0")
    with pytest.raises(ValueError, match="cell_diameter='0'; it must be an integer"):
        ds.models.convert_legacy(publish(authors.DeepCell(), settings=wrong), tile_um=10)


def test_a_deepcell_predicts_the_cells_of_a_slide(authors, publish, mean_color):
    encoder = mean_color()
    folder = publish(authors.DeepCell(encoder.card.dim, 6), settings=YAML.format("cell_neighbors"))
    (folder / FILES[1]).write_text(YAML.format("cell_neighbors").replace("tiny", encoder.card.name))
    model = ds.models.convert_legacy(folder, tile_um=40)
    slide = ds.datasets.toy(1, n_rows=3, n_cols=4, n_genes=6, cells=True)["P1_S1"]
    with pytest.raises(ValueError, match=r"was trained on cells, .*`resolution='spot'`"):
        ds.tl.predict(slide, model, resolution="cell", encoder=encoder)
    ds.tl.predict(slide, model, shapes_key="cells", encoder=encoder)
    table = slide["deepspot_cells"]
    assert table.shape == (len(slide["cells"]), 6)
    assert "ood" not in table.obs
