from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deepspot._features.bags import Bags
from deepspot.models._baselines import STNet
from deepspot.models._baselines.stnet_network import make_backbone, turn, turn_each

from .conftest import tiny


def flat():
    """Network without pooling, whose output depends on the orientation of a tile."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 4))


@pytest.mark.parametrize("options", [{}, {"fine_tune": True, "backbone": tiny, "px": 8}])
def test_it_starts_from_the_mean_expression(world, options):
    targets = world.image[0].copy()
    targets[:100, 0] = np.nan
    predicted = STNet(epochs=0, **options).fit(world.train, targets).predict(world.test)
    np.testing.assert_allclose(predicted, np.tile(np.nanmean(targets, axis=0), (144, 1)), rtol=1e-5)


def test_one_step_is_the_gradient_of_the_published_loss(world):
    rows, targets = np.arange(10), world.image[0].copy()
    targets[3, :2] = np.nan
    model = STNet(lr=1e-3, epochs=1).fit(world.train, targets, rows=rows)
    error = targets[rows] - np.nanmean(targets[rows], axis=0)
    known = np.isfinite(error)
    push = 2 * np.where(known, error, 0) / known.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        model.network.weight.detach().numpy(), 1e-3 * push.T @ world.train.spot[rows], rtol=1e-3, atol=1e-6
    )


def test_fine_tuning_changes_the_backbone_and_frozen_mode_needs_no_tiles(world):
    torch.manual_seed(0)
    before = tiny()
    state = {name: value.clone() for name, value in before.state_dict().items()}
    STNet(fine_tune=True, backbone=lambda: before, px=8, lr=1e-2, epochs=1).fit(world.train, world.image[0])
    assert all((before.state_dict()[name] != value).any() for name, value in state.items())
    STNet(epochs=1).fit(replace(world.train, tiles=None), world.image[0])


def test_prediction_does_not_depend_on_the_orientation_of_a_tile(world):
    model = STNet(fine_tune=True, backbone=flat, px=4, lr=1e-2, epochs=1).fit(world.train, world.image[0])
    expected = model.predict(world.test)
    for tiles in (np.rot90(world.test.tiles, axes=(1, 2)), world.test.tiles[:, ::-1]):
        turned = model.predict(replace(world.test, tiles=np.ascontiguousarray(tiles)))
        np.testing.assert_allclose(turned, expected, rtol=1e-4)
    assert expected.std(axis=0).min() > 0


def test_missing_tiles_say_how_to_get_them(world):
    with pytest.raises(ValueError, match=r"no tiles.*`Bags\(tiles=...\)`.*`fine_tune=False`"):
        STNet(fine_tune=True, backbone=tiny).fit(replace(world.train, tiles=None), world.image[0])


def test_eight_symmetries_are_all_there_are():
    image = torch.arange(9).view(1, 3, 3)
    turned = [turn(image, number) for number in range(8)]
    assert len({tuple(t.flatten().tolist()) for t in turned}) == 8
    torch.testing.assert_close(turned[0], image)
    torch.testing.assert_close(turn_each(image.expand(8, 1, 3, 3), torch.arange(8)), torch.stack(turned))


def test_the_backbone_of_the_package_needs_no_download():
    backbone = make_backbone(None, None, 32)
    assert backbone.dim() == 1280
    assert backbone.mean.flatten().tolist() == [0.5] * 3


def test_densenet_of_st_net_by_name_with_weights_of_a_file(tmp_path):
    import timm

    torch.manual_seed(0)
    published = timm.create_model("densenet121", pretrained=False)
    tiles, path = torch.randint(256, (2, 3, 40, 40)), tmp_path / "densenet.pth"
    torch.save(published.state_dict(), path)
    backbone = make_backbone("densenet121", path, 32).eval()
    assert backbone.dim() == 1024
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.testing.assert_close(backbone.module.features[0].weight, published.features[0].weight)
    with torch.inference_mode():
        assert backbone(tiles).shape == (2, 1024)


def test_a_densenet_is_fine_tuned_through_its_batch_normalization(world):
    import timm

    rows = np.arange(33)  # the last batch would be a single spot
    model = STNet(
        fine_tune=True,
        backbone=lambda: timm.create_model("densenet121", pretrained=False, num_classes=0),
        px=32,
        lr=1e-4,
        epochs=1,
    ).fit(world.train, world.image[0], rows=rows)
    few = Bags(world.test.spot[:2], None, world.test.neighbors[:2, :2], tiles=world.test.tiles[:2])
    assert np.isfinite(model.predict(few)).all()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"features.weight": torch.zeros(3)}, path)
    with pytest.raises(RuntimeError, match="state_dict"):
        make_backbone("densenet121", path, 32)


def test_unknown_backbones_name_those_that_are_known():
    with pytest.raises(ValueError, match=r"'densenet'` is not a model of timm.*'densenet121'"):
        make_backbone("densenet", None, 32)


def test_features_without_pooling_are_an_error(world):
    with pytest.raises(ValueError, match=r"features \(n, d\), got \(1, 8, 6, 6\)"):
        STNet(fine_tune=True, backbone=lambda: nn.Conv2d(3, 8, 3), px=8).fit(world.train, world.image[0])
