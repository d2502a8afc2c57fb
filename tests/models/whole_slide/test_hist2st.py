from dataclasses import replace

import numpy as np
import pytest
import torch

from deepspot.models._whole_slide.hist2st_network import ConvMixer, Hist2STNetwork, negative_binomial_loss
from deepspot.models._whole_slide.part import SlidePart

NAMES = {
    "patch_embedding": "stem.patch",
    "vit.transformer.down.0": "stem.down",
    "x_embed": "position.column",
    "y_embed": "position.row",
    "vit.transformer.jknet.0": "lstm",
    "mean.0": "of_counts.0",
    "disp.0": "of_counts.1",
    "pi.0": "of_counts.2",
    "coef": "coefficient",
    "gene_head.0": "norm",
    "gene_head.1": "output",
    **{f"vit.transformer.layer3.{i}": f"graph.{i}" for i in range(3)},
    **{
        f"vit.transformer.layer1.{i}.{theirs}": f"stem.{ours}"
        for i in range(2)
        for theirs, ours in (("dw", f"spatial.{i}"), ("pw", f"mixing.{i}"))
    },
}


class Copies(torch.nn.Module):
    """Returns the published augmented tiles in turn."""

    def __init__(self, copies: torch.Tensor) -> None:
        super().__init__()
        self.copies, self.number = copies, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.number += 1
        return self.copies[(self.number - 1) % len(self.copies)].to(tiles.dtype)


@pytest.fixture(scope="module")
def found(vectors):
    return vectors("hist2st")


@pytest.fixture(scope="module")
def make(found, transformer):
    def network(**options) -> Hist2STNetwork:
        made = Hist2STNetwork(
            ConvMixer(16, 2, 0.0),
            torch.zeros(20),
            dim=32,
            layers=2,
            graph_layers=3,
            heads=2,
            n_pos=64,
            dropout=0.0,
            bake=3,
            augment=Copies(found.input("aug_patches_ncxy")),
            **options,
        )
        names = [transformer(f"vit.transformer.layer2.{i}", f"blocks.{i}", "attn", "ff") for i in range(2)]
        found.load(made, NAMES | names[0] | names[1])
        return made.eval()

    return network


@pytest.fixture(scope="module")
def part(found):
    return SlidePart(
        inputs=found.input("patches_ncxy"),
        positions=found.input("positions"),
        edges=found.input("adj_grid_k4").nonzero().T,
        targets=torch.from_numpy(found.expected["target_expression"]).float(),
        weights=torch.ones(12, 20),
        counts=found.input("counts").float(),
        size=torch.from_numpy(found.expected["size_factors"]).float(),
    )


def test_the_published_prediction(found, make, part, agree):
    network, expected = make(), found.expected
    with torch.no_grad():
        np.testing.assert_allclose(network.stem(part.inputs), expected["convmixer_tokens"], rtol=1e-4, atol=1e-3)
        agree("features", network.features(part), expected["h"], atol=1e-4)
        agree("prediction", network(part), expected["pred"], atol=1e-4)
        agree("prediction, maximum of neighbors", make(pool="max")(part), expected["pred_policy_max"], atol=1e-4)
        exact = network.double()(part.double())
    agree("prediction, float64", exact, expected["pred_float64"], atol=1e-8)


def test_the_published_losses(found, make, part, agree):
    network, expected = make(), found.expected
    with torch.no_grad():
        agree(
            "loss of counts, ZINB",
            network.count_loss(network.features(part), part),
            expected["zinb_loss_eval"],
            rtol=1e-5,
        )
        agree("distillation", network.distilled(part), expected["distilled_pred_eval"], atol=1e-4)
        agree("total loss", network.loss(part), expected["total_loss_eval"], rtol=1e-5)
    r, p = found.input("nb_r"), found.input("nb_p")
    loss = negative_binomial_loss(part.counts, part.weights, r, p)
    agree("loss of counts, NB", loss, expected["nb_loss"], rtol=1e-5)


def test_the_published_training(found, make, part, first_losses, agree):
    network = make().train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = first_losses(network, lambda: network.loss(part), optimizer, lambda: found.check_gradients(network))
    agree("first five losses", losses, found.expected["loss_first5_adam_lr1e3"], rtol=1e-4)


def test_unknown_targets_do_not_count(make, part):
    network = make()
    unknown = torch.zeros(12, 20, dtype=torch.bool)
    unknown[3], unknown[:, 7] = True, True
    hidden = replace(
        part,
        weights=(~unknown).float(),
        targets=part.targets.masked_fill(unknown, 50.0),
        counts=part.counts.masked_fill(unknown, 50.0),
    )
    with torch.no_grad():
        ours = network.loss(hidden), network.loss(replace(hidden, targets=part.targets, counts=part.counts))
        assert ours[0].item() == ours[1].item() != network.loss(part).item()
