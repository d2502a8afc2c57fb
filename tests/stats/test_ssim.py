import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from deepspot._stats.ssim import gaussian_windows, ssim

H, W = 24, 28


@pytest.fixture(scope="module")
def centers():
    y, x = np.mgrid[:H, :W]
    return np.column_stack([x.ravel(), y.ravel()]) * 100.0


@pytest.fixture(scope="module")
def maps():
    """Measured and predicted genes (n, 3) with patterns and different levels."""
    rng = np.random.default_rng(0)
    smooth = [gaussian_filter(rng.normal(size=(H, W)), 2).ravel() for _ in range(6)]
    measured, other = np.stack(smooth[:3], axis=1) + 3, np.stack(smooth[3:], axis=1)
    return measured, measured * 0.8 + 0.3 * other + 0.1


def test_is_that_of_scikit_image_inside_of_a_complete_array(centers, maps):
    measured, predicted = maps
    windows = gaussian_windows(centers).tolil()
    border = np.ones((H, W), dtype=bool)
    border[5:-5, 5:-5] = False  # scikit-image leaves it out
    windows[border.ravel()] = 0
    windows = windows.tocsr()
    windows.eliminate_zeros()
    expected = [
        structural_similarity(
            *(values[:, gene].reshape(H, W) for values in (predicted, measured)),
            data_range=np.ptp(measured[:, gene]),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for gene in range(3)
    ]
    np.testing.assert_allclose(ssim(predicted, measured, windows), expected, atol=1e-3)


def test_does_not_depend_on_units_order_or_orientation(centers, maps):
    measured, predicted = maps
    before = ssim(predicted, measured, gaussian_windows(centers))
    order = np.random.default_rng(0).permutation(len(centers))
    turned = centers @ [[0.6, 0.8], [-0.8, 0.6]] / 7 + 50
    after = ssim(predicted[order], measured[order], gaussian_windows(turned[order]))
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_holes_are_not_filled(centers, maps):
    """Spots that were not measured change the windows around them only: values far away stay."""
    measured, predicted = maps
    keep = np.random.default_rng(1).random(len(centers)) > 0.3
    windows = gaussian_windows(centers[keep])
    np.testing.assert_allclose(windows.sum(axis=1), 1)
    part = ssim(predicted[keep], measured[keep], windows)
    whole = ssim(predicted, measured, gaussian_windows(centers))
    np.testing.assert_allclose(part, whole, atol=0.06)
    np.testing.assert_allclose(ssim(measured[keep], measured[keep], windows), 1)


def test_what_lowers_it(centers, maps):
    measured, _ = maps
    windows = gaussian_windows(centers)
    level, contrast = ssim(measured + 1, measured, windows), ssim((measured - 3) / 4 + 3, measured, windows)
    opposite = ssim(6 - measured, measured, windows)
    assert (level < 1).all()
    assert (contrast < 0.9).all()
    assert (opposite < 0).all()


def test_without_a_measurement_that_varies(centers):
    flat, noise = np.ones((len(centers), 1)), np.random.default_rng(0).normal(size=(len(centers), 1))
    unknown = np.full_like(flat, np.nan)
    windows = gaussian_windows(centers)
    assert np.isnan(ssim(noise, flat, windows)).all()
    assert np.isnan(ssim(noise, unknown, windows)).all()
    assert np.isfinite(ssim(flat, noise, windows)).all()  # a constant prediction is defined


def test_a_spot_alone_in_its_window_does_not_count(centers, maps):
    measured, predicted = maps
    far = np.vstack([centers, [[1e6, 1e6]]])
    windows = gaussian_windows(far)
    assert windows[-1].sum() == 0
    wrong = np.vstack([predicted, measured[:1] - 1]), np.vstack([measured, measured[:1]])
    np.testing.assert_allclose(ssim(*wrong, windows), ssim(predicted, measured, gaussian_windows(centers)), rtol=1e-3)
