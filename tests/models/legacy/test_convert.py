import logging
import shutil

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot import cli

from .conftest import FILES, GENES


def bags_of(spot, subspots, neighbors):
    """Bags in which the first n spots have neighbors that nobody else has; the authors give every spot its own."""
    n, k, d = neighbors.shape
    tiles = np.concatenate([spot[:, 0], neighbors.reshape(n * k, d)])
    parts = np.concatenate([subspots, np.zeros((n * k, subspots.shape[1], d), np.float32)])
    links = np.ones(n * k, bool), (np.repeat(np.arange(n), k), n + np.arange(n * k))
    return ds.models.Bags(tiles, parts, csr_matrix(links, shape=(n + n * k,) * 2))


@pytest.fixture
def tiles():
    rng = np.random.default_rng(1)
    return [rng.normal(size=(7, count, 5)).astype(np.float32) for count in (1, 9, 4)]


def test_the_published_format_gives_its_published_outputs(vector):
    known = np.load(vector / "expected.npz")
    model = ds.models.convert_legacy(vector)
    predicted = model.predict(bags_of(known["spot"], known["subspots"], known["neighbors"]))[: len(known["spot"])]
    np.testing.assert_allclose(predicted, known["expression"], atol=1e-5)
    np.testing.assert_allclose((predicted - model.scaler.mean) / model.scaler.std, known["standardized"], atol=1e-5)
    assert (model.card.network.phi_average, model.card.network.subspot_pooling) == ("median", "sum")
    assert model.card.genes[:2] == ["GENE000", "GENE001"]
    assert len(model.card.genes) == 40


def test_a_converted_model_survives_saving(vector, tmp_path):
    known = np.load(vector / "expected.npz")
    bags = bags_of(known["spot"], known["subspots"], known["neighbors"])
    model = ds.models.convert_legacy(vector / FILES[0], tile_um=55)
    model.save(tmp_path / "bundle")
    loaded = ds.models.load(tmp_path / "bundle")
    np.testing.assert_array_equal(loaded.predict(bags), model.predict(bags))
    assert not loaded.ood.known


@pytest.mark.parametrize("context", ["spot", "spot_subspot", "spot_neighbors", "spot_subspot_neighbors"])
def test_every_context_predicts_as_the_authors_network(authors, publish, scaler, tiles, context):
    torch.manual_seed(0)
    network = authors.DeepSpot(spot_context=context, scaler=scaler).eval()
    taken = [
        part for part, name in zip(tiles, ("spot", "subspot", "neighbors"), strict=True) if name in context.split("_")
    ]
    with torch.inference_mode():
        scores = network._forward_fn([torch.from_numpy(part) for part in taken]).numpy()
    model = ds.models.convert_legacy(publish(network))
    predicted = model.predict(bags_of(*tiles))[: len(scores)]
    np.testing.assert_allclose(predicted, scaler.inverse_transform(scores), rtol=1e-5, atol=1e-5)


def test_a_checkpoint_without_a_scaler_predicts_its_scores(authors, publish, tiles):
    network = authors.DeepSpot(loss_func="mse_pearson").eval()
    with torch.inference_mode():
        scores = network._forward_fn([torch.from_numpy(part) for part in tiles]).numpy()
    model = ds.models.convert_legacy(publish(network))
    np.testing.assert_allclose(model.predict(bags_of(*tiles))[: len(scores)], scores, rtol=1e-5, atol=1e-6)
    assert "mse_pearson" in model.card.note


def test_only_predicted_genes_are_kept_in_the_order_of_the_file(authors, publish):
    folder = publish(authors.DeepSpot(), genes=GENES[::-1])
    assert ds.models.convert_legacy(folder).card.genes == GENES[::-1]


def test_the_card_says_what_is_known_and_what_was_assumed(authors, publish, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("deepspot"), "propagate", True)
    folder = publish(authors.DeepSpot(), settings="image_feature_model: hoptimus0\nneighbors: 2\nspot_diameter: 100\n")
    model = ds.models.convert_legacy(folder, tissue="colon", license="CC-BY-4.0")
    assert "55 µm are assumed" in caplog.text
    assert "spot_diameter=100" in caplog.text
    card = model.card
    assert (card.name, card.tissue, card.license) == ("Colon", "colon", "CC-BY-4.0")
    assert (card.encoder.name, card.encoder.dim) == ("h-optimus-0_bilinear", 5)
    assert (card.geometry.neighbors.kind, card.geometry.neighbors.reach, card.geometry.neighbors.cap) == ("box", 2, 24)
    assert (card.encoder_fingerprint, card.reliability, card.gate, card.seed) == ("", None, None, 1)
    caplog.clear()
    assert ds.models.convert_legacy(folder, tile_um=48).card.geometry.tile.tile_um == 48
    assert "assumed" not in caplog.text


@pytest.mark.parametrize(
    ("published", "name", "dim"),
    [("uni", "uni", 1024), ("hoptimus0", "h-optimus-0_bilinear", 1536), ("phikonv2", "phikon-v2", 1024)],
)
def test_encoders_of_the_paper_are_those_of_the_registry(authors, publish, published, name, dim):
    folder = publish(authors.DeepSpot(input_size=dim), settings=f"image_feature_model: {published}\n")
    card = ds.models.convert_legacy(folder).card.encoder
    assert (card.name, card.url) == (name, ds.encoders.available().loc[name, "url"])


def test_what_is_missing_is_named(authors, publish, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ds.models.convert_legacy(tmp_path / "nowhere")
    folder = publish(authors.DeepSpot())
    with pytest.raises(FileNotFoundError, match="Pass one of its folders: \\['Colon'\\]"):
        ds.models.convert_legacy(tmp_path)
    (folder / FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match="`encoder=`"):
        ds.models.convert_legacy(folder)
    assert ds.models.convert_legacy(folder, encoder="mine").card.encoder.name == "mine"
    (folder / FILES[2]).unlink()
    with pytest.raises(FileNotFoundError, match="names the predicted genes"):
        ds.models.convert_legacy(folder, encoder="mine")


@pytest.mark.parametrize(
    ("settings", "genes", "message"),
    [
        ("image_feature_model: tiny\n", GENES[:4], "predicts 6 genes, but .* names 4"),
        ("image_feature_model: tiny\n", [*GENES[:5], "G0"], "duplicate"),
        ("image_feature_model: tiny\n", [*GENES[:5], "G\x055"], "do not form a valid model: .*control characters"),
        ("image_feature_model: tiny\ninput_size: 7\n", GENES, "do not belong together"),
        ("image_feature_model: tiny\nneighbors: many\n", GENES, "neighbors='many'"),
        ("[image_feature_model", GENES, "not readable as YAML"),
        ("just text", GENES, "no hyper-parameters by name"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(authors, publish, settings, genes, message):
    folder = publish(authors.DeepSpot(), genes=genes, settings=settings)
    with pytest.raises(ValueError, match=message):
        ds.models.convert_legacy(folder)


@pytest.mark.parametrize("context", ["spot_spot", "neighbors_spot", "subspot", ""])
def test_other_orders_of_the_context_are_refused(authors, publish, context):
    network = authors.DeepSpot(spot_context="spot_neighbors")
    network._hparams["spot_context"] = context
    network._forward_fn = None
    with pytest.raises(ValueError, match="unknown context"):
        ds.models.convert_legacy(publish(network))


def test_a_wide_table_of_genes_takes_no_more_memory_than_it_is_long(authors, publish):
    folder = publish(authors.DeepSpot())
    head = "gene_name,isPredicted," + ",".join("x" * 200_000)
    rows = [head, *(f"{gene},True" for gene in GENES), *["O,False"] * 2_000]
    (folder / FILES[2]).write_text("\n".join(rows))
    assert ds.models.convert_legacy(folder).card.genes == GENES


def test_yaml_cannot_construct_objects_or_expand(authors, publish):
    folder = publish(
        authors.DeepSpot(), settings="x: !!python/object/apply:os.system [exit]\nimage_feature_model: tiny\n"
    )
    assert ds.models.convert_legacy(folder).card.encoder.name == "tiny"
    laughs = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    publish(authors.DeepSpot(), settings="image_feature_model: tiny\na0: &a0 {k: v}\n" + laughs)
    assert ds.models.convert_legacy(folder).card.encoder.name == "tiny"


def test_weights_that_are_not_finite_are_refused(authors, publish, scaler):
    network = authors.DeepSpot(scaler=scaler)
    network.rho[0].model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        ds.models.convert_legacy(publish(network))
    scaler.scale_[2] = 1e300  # infinite in float32
    with pytest.raises(ValueError, match="scaler that does not match"):
        ds.models.convert_legacy(publish(authors.DeepSpot(scaler=scaler)))
    scaler.scale_[2] = 0
    with pytest.raises(ValueError, match="scaler that does not match"):
        ds.models.convert_legacy(publish(authors.DeepSpot(scaler=scaler)))


def test_a_file_alone_is_converted_with_the_two_beside_it(authors, publish, tmp_path):
    folder = publish(authors.DeepSpot())
    moved = tmp_path / "Lung"
    shutil.copytree(folder, moved)
    assert ds.models.convert_legacy(moved / FILES[0]).card.name == "Lung"


def test_the_command_line_converts(authors, publish, tmp_path, capsys):
    folder = publish(authors.DeepSpot())
    out = tmp_path / "bundle"
    assert cli.main(["convert", str(folder), "--out", str(out), "--tile-um", "50", "--tissue", "colon"]) == 0
    assert str(out) in capsys.readouterr().out
    card = ds.models.load(out).card
    assert (card.geometry.tile.tile_um, card.tissue) == (50, "colon")
    assert cli.main(["convert", str(folder), "--out", str(out)]) == 2
    assert "overwrite" in capsys.readouterr().err


@pytest.fixture
def small(authors, publish, scaler, cheap_encoder):
    """A checkpoint for the encoder of the tests."""
    torch.manual_seed(0)
    dim = cheap_encoder.card.dim
    network = authors.DeepSpot(input_size=dim, scaler=scaler)
    return ds.models.convert_legacy(publish(network, settings=f"image_feature_model: {cheap_encoder.card.name}\n"))


def test_a_converted_model_predicts_a_slide(small, slide, cheap_encoder, tmp_path):
    ds.tl.predict(slide, small, encoder=cheap_encoder)
    table = slide.tables["deepspot_spots"]
    assert list(table.var_names) == GENES
    assert np.isfinite(table.X).all()
    assert not {"ood", "ood_score"} & set(table.obs)
    assert np.isnan(table.uns["deepspot"]["ood_share"])
    ds.tl.predict(slide, small, encoder=cheap_encoder, out=tmp_path / "out.zarr", key_added="streamed")
    streamed = ds.io.predicted(tmp_path / "out.zarr").tables["streamed"]
    order = [list(table.obs_names).index(name) for name in streamed.obs_names]
    np.testing.assert_allclose(streamed.X.compute(), table.X[order], atol=2e-2)  # embeddings in half precision
    assert "ood" not in streamed.obs


def test_an_encoder_of_another_length_is_refused(authors, publish, slide, cheap_encoder):
    model = ds.models.convert_legacy(publish(authors.DeepSpot()))
    with pytest.raises(ValueError, match="takes embeddings of length 5"):
        ds.tl.predict(slide, model, encoder=cheap_encoder)
