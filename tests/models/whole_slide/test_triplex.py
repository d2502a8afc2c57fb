from dataclasses import replace

import pytest
import torch

from deepspot.models._whole_slide.part import SlidePart
from deepspot.models._whole_slide.triplex_network import TriplexNetwork, combined_loss, grid_size


def divide(ours: str, parts: tuple[str, ...], *, fastest: bool = False):
    """Split one published projection; with `fastest`, query, key and value of a channel follow each other."""

    def split(_: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
        chunks = [values[i :: len(parts)] for i in range(len(parts))] if fastest else values.chunk(len(parts))
        return {f"{ours}.attention.{part}.weight": chunk for part, chunk in zip(parts, chunks, strict=True)}

    return split


@pytest.fixture(scope="module")
def found(vectors):
    return vectors("triplex")


@pytest.fixture(scope="module")
def make(found, transformer):
    parts = ("query", "key", "value")
    layers = {
        "neighbor_encoder.layer.layers.0": "neighbors.blocks.0",
        "neighbor_encoder.layer.layers.1": "neighbors.blocks.1",
        "global_encoder.layer1.layers.0": "slide.0",
        "global_encoder.layer2.layers.0": "slide.1",
        "global_encoder.layer2.layers.1": "slide.2",
        "fusion_encoder.fusion_layer.layers.0": "fusion.0",
    }
    names = {
        "target_linear": "target",
        "neighbor_encoder.norm": "neighbors.norm",
        "global_encoder.norm": "slide_norm",
        "global_encoder.pos_layer.proj": "grid.convolution",
        "fusion_encoder.norm": "fusion_norm",
        "fc": "head",
        "fc_target": "heads.0",
        "fc_neighbor": "heads.1",
        "fc_global": "heads.2",
    }
    for theirs, ours in layers.items():
        names |= transformer(theirs, ours)
        if ours.startswith("slide"):
            names[f"{theirs}.0.fn.to_qkv"] = divide(ours, parts, fastest=True)
        if ours.startswith("neighbors"):
            names[f"{theirs}.0.fn.attention_biases"] = ours.replace("blocks", "bias")
    names["fusion_encoder.fusion_layer.layers.0.0.fn.to_q"] = divide("fusion.0", parts[:1])
    names["fusion_encoder.fusion_layer.layers.0.0.fn.to_kv"] = divide("fusion.0", parts[1:])

    def network() -> TriplexNetwork:
        made = TriplexNetwork(
            512, 32, torch.zeros(20), layers=(1, 3, 2), heads=(4, 4, 2), mlp=(2, 2, 1), dropout=(0.0, 0.0, 0.0)
        )
        found.load(made, names)
        return made.eval()

    return network


def tokens(found, name: str) -> torch.Tensor:
    return found.input(name).flatten(2).transpose(1, 2)


def test_the_published_prediction(found, make, agree):
    network, expected = make(), found.expected
    position, features = found.input("slide1_position"), found.input("slide1_global_emb")
    with torch.no_grad():
        assert grid_size(position) == tuple(expected["apeg_grid_WH"])
        slide = network.encode_slide(features, position)
        agree("slide tokens", slide, expected["global_tokens"], atol=1e-4)
        known = found.input("slide1_mask") > 0
        window = network.neighbors(found.input("slide1_neighbor_emb"), known)
        agree("neighbor tokens", window, expected["neighbor_tokens"], atol=1e-4)
        target = tokens(found, "slide1_img_features")
        fused, _ = network.fuse(slide, target, found.input("slide1_neighbor_emb"), known)
    agree("prediction", fused, expected["pred_slide"], atol=1e-4)


@pytest.mark.parametrize(("size", "name"), [(None, "fresh"), ((4, 3), "after_slide1_cached_grid")])
def test_the_grid_of_another_slide(found, make, size, name, agree):
    """The published network keeps the size of the grid of the first slide; ours is that of every slide."""
    network, rows = make(), slice(9)
    with torch.no_grad():
        slide = network.encode_slide(found.input("slide2_global_emb"), found.input("slide2_position"), size)
        window, known = (found.input(f"slide1_{x}")[rows] for x in ("neighbor_emb", "mask"))
        fused, _ = network.fuse(slide, tokens(found, "slide1_img_features")[rows], window, known > 0)
    agree(f"second slide, {name}", fused, found.expected[f"pred_slide2_{name}"], atol=1e-4)


def test_the_published_training(found, make, first_losses, agree):
    network, expected = make().train(), found.expected
    label, known = found.input("batch_label"), found.input("batch_mask") > 0
    part = SlidePart(label, label, label, targets=label, weights=torch.ones_like(label))
    # As in the published code, both slides get the grid of the first one.
    size = tuple(expected["train_apeg_grid_WH"].tolist())

    def predict() -> tuple[torch.Tensor, list[torch.Tensor]]:
        slides = [
            network.encode_slide(found.input(f"slide{i}_global_emb"), found.input(f"slide{i}_position"), size)
            for i in (1, 2)
        ]
        pairs = zip(found.input("batch_pid"), found.input("batch_sid"), strict=True)
        slide = torch.stack([slides[pid][sid] for pid, sid in pairs])
        return network.fuse(slide, tokens(found, "batch_img_features"), found.input("batch_neighbor_emb"), known)

    with torch.no_grad():
        fused, alone = predict()
    agree("training, fused", fused, expected["train_pred_fusion"], atol=1e-4)
    for ours, name in zip(alone, ("target", "neighbor", "global"), strict=True):
        agree(f"training, {name}", ours, expected[f"train_pred_{name}"], atol=1e-4)
    assert [float((x - label).square().mean()) for x in (fused, *alone)] == pytest.approx(
        expected["loss_terms_supervised"], rel=1e-4
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    losses = first_losses(
        network, lambda: combined_loss(part, *predict()), optimizer, lambda: found.check_gradients(network)
    )
    agree("first five losses", losses, expected["loss_first5_adamw_lr1e3"], rtol=1e-4)


def test_a_part_of_a_slide(found, make):
    """The network on a part is the same as on its pieces; training uses the chosen spots."""
    network = make()
    window = torch.randint(-1, 11, (11, 25), generator=torch.Generator().manual_seed(0))
    window[:, 12] = torch.arange(11)
    label = torch.rand(11, 20, generator=torch.Generator().manual_seed(1))
    part = SlidePart(
        inputs=found.input("slide1_global_emb"),
        positions=found.input("slide1_position"),
        edges=torch.zeros(2, 0, dtype=torch.long),
        window=window,
        target=tokens(found, "slide1_img_features"),
        targets=label,
        weights=torch.ones_like(label),
    )
    with torch.no_grad():
        predicted = network(part)
        rows = torch.tensor([7, 2])
        chosen = replace(part, rows=rows, targets=predicted[rows], weights=part.weights[rows])
        _, alone = network._predict(part, part.inputs, network.encode_slide(part.inputs, part.positions), rows)
        expected = sum(float((x - predicted[rows]).square().mean()) for x in alone)
        assert network.loss(chosen).item() == pytest.approx(expected, rel=1e-5)
