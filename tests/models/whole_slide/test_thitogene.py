import numpy as np
import pytest
import torch

from deepspot.models._whole_slide.part import SlidePart
from deepspot.models._whole_slide.thitogene_network import Capsules, THItoGeneNetwork


@pytest.fixture(scope="module")
def found(vectors):
    published = vectors("thitogene")
    norms = dict(zip(published.expected["grad_names"].tolist(), published.expected["grad_norms_adj3d"], strict=True))
    heads = [f"gat.attention_{i}" for i in range(3)]
    for ours, layers in (("graph", heads), ("graph_out", ["gat.out_att"])):  # our heads are in one parameter
        for part in ("W", "a"):
            names = [f"{layer}.{part}" for layer in layers]
            published.parameters[f"{ours}.{part}"] = np.stack([published.parameters.pop(name) for name in names])
            norms[f"{ours}.{part}"] = np.linalg.norm([norms.pop(name) for name in names])
    published.expected |= {"grad_names": np.array(list(norms)), "grad_norms": np.array(list(norms.values()))}
    return published


@pytest.fixture(scope="module")
def make(found, transformer):
    def scores(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
        spot, neighbor = values.squeeze(-1).chunk(2, dim=1)
        layer = name.partition(".")[0]
        return {f"{layer}.to_spot": spot, f"{layer}.to_neighbor": neighbor}

    def project(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{name.partition('.')[0]}.project": values}

    attention, convolution = "odconv2d.attention", "stem.convolution"
    names = {
        "odconv2d.weight": f"{convolution}.weight",
        f"{attention}.fc": f"{convolution}.color.0",
        f"{attention}.bn": f"{convolution}.color.1",
        f"{attention}.channel_fc": f"{convolution}.channel",
        f"{attention}.filter_fc": f"{convolution}.filter",
        f"{attention}.spatial_fc": f"{convolution}.place",
        f"{attention}.kernel_fc": f"{convolution}.kernel",
        "caps_layer.primary_caps.depthwise_conv": "stem.primary",
        "caps_layer.digit_caps.W": "stem.weight",
        "caps_layer.digit_caps.b": "stem.bias",
        "x_embed": "position.column",
        "y_embed": "position.row",
        "gene_head": "head",
        "gene_head.3": "output",
        **{f"caps_layer.conv{i + 1}": f"stem.maps.{i}.0" for i in range(4)},
        **{f"caps_layer.batch_norm{i + 1}": f"stem.maps.{i}.1" for i in range(4)},
        **{f"{layer}.W": project for layer in ("graph", "graph_out")},
        **{f"{layer}.a": scores for layer in ("graph", "graph_out")},
        **transformer("vit.transformer.layers.0", "blocks.0"),
        **transformer("vit.transformer.layers.1", "blocks.1"),
    }

    def network(*, published: bool) -> THItoGeneNetwork:
        made = THItoGeneNetwork(
            Capsules(4, 8),
            32,
            torch.zeros(20),
            route=8,
            layers=2,
            heads=2,
            graph_heads=3,
            hidden=48,
            graph_dim=(16, 12, 24),
            n_pos=64,
            dropout=0.0,
            published=published,
        )
        found.load(made, names)
        return made.eval()

    return network


@pytest.fixture(scope="module")
def part(found):
    return SlidePart(
        inputs=found.input("patches_ncxy"),
        positions=found.input("positions"),
        edges=found.input("adj_NA_k4").nonzero().T,
        targets=torch.from_numpy(found.expected["target_expression"]).float(),
        weights=torch.ones(12, 20),
    )


@pytest.mark.parametrize(("published", "name"), [(True, "adj3d"), (False, "adj2d")])
def test_the_published_prediction(found, make, part, published, name, agree):
    network = make(published=published)
    with torch.no_grad():
        capsules = network.stem(part.inputs).view(12, 4, 8)
        agree("capsules", capsules, found.expected["capsules"], atol=1e-4)
        agree(f"prediction, {name}", network(part), found.expected[f"pred_{name}"], atol=1e-4)
        exact = network.double()(part.double())
    agree(f"prediction, {name}, float64", exact, found.expected[f"pred_{name}_float64"], atol=1e-8)


def test_the_published_training(found, make, part, first_losses, agree):
    assert make(published=False).train().loss(part).item() == pytest.approx(
        found.expected["train_loss_adj2d"], rel=1e-4
    )
    network = make(published=True).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    losses = first_losses(network, lambda: network.loss(part), optimizer, lambda: None)
    agree("first five losses", losses, found.expected["loss_first5_adam_lr1e3_adj3d"], rtol=1e-4)


def test_the_published_gradients(found, make, part):
    """In double precision. The published ones are in single precision and differ by up to 0.4 % in the first layers."""
    network = make(published=True).train().double()
    network.loss(part.double()).backward()
    found.check_gradients(network, rtol=4e-3)
