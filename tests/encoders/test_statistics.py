import numpy as np
import pytest
import torch

from deepspot.encoders._statistics import RGB_QUANTILES, STAIN_QUANTILES, STAINS, stains, statistics

NAMES = [
    *(f"mean_{c}" for c in "rgb"),
    *(f"sd_{c}" for c in "rgb"),
    *(f"q{q}_{c}" for c in "rgb" for q in RGB_QUANTILES),
    *(f"mean_{s}" for s in "he"),
    *(f"sd_{s}" for s in "he"),
    *(f"q{q}_{s}" for s in "he" for q in STAIN_QUANTILES),
    "gradient_h",
    "gradient_e",
    "gradient_sd_h",
]


def named(rgb):
    return dict(zip(NAMES, statistics(rgb)[0].tolist(), strict=True))


def constant(*rgb, px=32):
    return torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, px, px).clone()


def stained(h, e):
    density = h * torch.tensor(STAINS[0]) + e * torch.tensor(STAINS[1])
    return constant(*torch.exp(-density).tolist())


def test_number_of_statistics():
    assert len(NAMES) == 32
    assert statistics(torch.rand(4, 3, 32, 32)).shape == (4, 32)


def test_white_has_no_stain():
    values = named(constant(1, 1, 1))
    assert values["mean_r"] == values["q0.5_b"] == 1
    assert all(abs(values[name]) < 1e-6 for name in NAMES if name.endswith(("_h", "_e")))


@pytest.mark.parametrize(("h", "e"), [(0.8, 0.0), (0.0, 0.6), (0.5, 0.3)])
def test_stains_are_separated(h, e):
    values = named(stained(h, e))
    assert values["mean_h"] == pytest.approx(h, abs=1e-4)
    assert values["mean_e"] == pytest.approx(e, abs=1e-4)
    assert values["q0.95_h"] == pytest.approx(h, abs=1e-4)


def test_constant_tile_has_no_texture():
    values = named(constant(0.7, 0.4, 0.6))
    flat = [name for name in NAMES if name.startswith(("sd_", "gradient"))]
    assert len(flat) == 8
    assert all(abs(values[name]) < 1e-5 for name in flat)


def test_moments_use_every_fourth_pixel():
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values, few = named(rgb), rgb[0, :, ::4, ::4].numpy().reshape(3, -1)
    for channel, name in enumerate("rgb"):
        assert values[f"mean_{name}"] == pytest.approx(few[channel].mean(), abs=1e-5)
        assert values[f"sd_{name}"] == pytest.approx(few[channel].std(ddof=1), abs=1e-5)
        for q in RGB_QUANTILES:
            assert values[f"q{q}_{name}"] == pytest.approx(np.quantile(few[channel], q), abs=1e-5)
    density = stains(rgb[..., ::4, ::4])[0].numpy().reshape(2, -1)
    assert values["q0.25_e"] == pytest.approx(np.quantile(density[1], 0.25), abs=1e-5)


def test_gradient_of_a_ramp():
    density = torch.linspace(0, 1.6, 65)[:-1].view(1, 1, 1, 64).expand(1, 1, 64, 64)
    rgb = torch.exp(-density * torch.tensor(STAINS[0]).view(1, 3, 1, 1))
    values = named(rgb)
    assert values["gradient_h"] == pytest.approx(2 * 1.6 / 64, rel=0.02)
    assert values["gradient_e"] == pytest.approx(0, abs=1e-3)
    assert values["gradient_sd_h"] == pytest.approx(0, abs=1e-3)


def test_textured_tile_has_a_gradient():
    rgb = constant(1, 1, 1)
    rgb[..., ::8, :] = 0.2
    assert named(rgb)["gradient_h"] > 0.05


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_finite_at_the_extremes(level):
    assert torch.isfinite(statistics(torch.full((2, 3, 224, 224), level))).all()


def test_rows_are_tiles():
    batch = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    one_by_one = torch.cat([statistics(tile[None]) for tile in batch])
    torch.testing.assert_close(statistics(batch), one_by_one)
