import numpy as np
import pytest

from deepspot._image import tissue

SIDES = np.array([8.0, 8.0])
RNG = np.random.default_rng(0)
GLASS, EOSIN, NUCLEI = (243, 238, 242), (214, 150, 190), (105, 80, 150)
INKS = {"blue": (30, 60, 170), "dark blue": (25, 35, 130), "green": (20, 120, 70)}
INKS |= {"black": (30, 30, 34), "red": (205, 25, 40)}


def noisy(pixels):
    return np.clip(pixels + RNG.normal(0, 2, pixels.shape), 1, 255).round().astype(np.uint8)


def stained(height, width):
    """Tissue: pink, with 20 % nuclei."""
    nuclei = RNG.random((height, width, 1)) < 0.2
    return np.where(nuclei, NUCLEI, EOSIN).astype(float)


@pytest.fixture
def scene():
    """Glass, with tissue in the right half; tiles are numbered row by row, ten in a row."""
    rgb = np.tile(np.array(GLASS, float), (80, 80, 1))
    rgb[:, 40:] = stained(80, 40)
    return rgb


CENTERS = np.array([(8.0 * col + 4, 8.0 * row + 4) for row in range(10) for col in range(10)])
RIGHT = CENTERS[:, 0] > 40


def test_brightness_is_the_mean_of_the_tile():
    levels = np.array([199, 200, 201, 255, 1, 100]).repeat(8)
    rgb = np.repeat(np.broadcast_to(levels, (8, 48))[..., None], 3, axis=2).astype(np.uint8)
    centers = np.array([(8.0 * i + 4, 4) for i in range(6)])
    assert tissue.tissue_by_brightness(rgb, centers, SIDES).tolist() == [True, True, False, False, True, True]


def test_means_weigh_pixels_at_the_border_by_their_overlap(monkeypatch):
    values = RNG.integers(0, 255, (30, 40)).astype(float)
    centers, sides = np.array([[10.25, 20.5], [0.0, 0.0], [39.9, 29.0]]), np.array([3.0, 3.0])
    fine = values.repeat(8, axis=0).repeat(8, axis=1)
    expected = []
    for x, y in centers:
        (x0, x1), (y0, y1) = ((max(0, round(at * 8) - 12), round(at * 8) + 12) for at in (x, y))
        expected.append(fine[y0:y1, x0:x1].mean())
    means = tissue.tile_means(values, centers, sides)
    np.testing.assert_allclose(means[:2], expected[:2])
    monkeypatch.setattr(tissue, "BAND", 7)
    np.testing.assert_allclose(tissue.tile_means(values, centers, sides), means)


@pytest.mark.parametrize("rule", [tissue.tissue_by_brightness, tissue.tissue_by_saturation])
def test_both_rules_separate_tissue_from_glass(scene, rule):
    np.testing.assert_array_equal(rule(noisy(scene), CENTERS, SIDES), RIGHT)


@pytest.mark.parametrize("left", [0.3, 0.4])
def test_pale_stain_is_detected_by_saturation_only(scene, left):
    pale = noisy(243 - (243 - scene) * left)
    np.testing.assert_array_equal(tissue.tissue_by_saturation(pale, CENTERS, SIDES), RIGHT)
    assert not tissue.tissue_by_brightness(pale, CENTERS, SIDES).any()


@pytest.mark.parametrize("color", INKS.values(), ids=INKS)
def test_ink_is_not_tissue(scene, color):
    scene[:, 8:24] = color
    scene[0:8, 64:72] = color
    expected = RIGHT & ~((CENTERS[:, 0] == 68) & (CENTERS[:, 1] == 4))
    np.testing.assert_array_equal(tissue.tissue_by_saturation(noisy(scene), CENTERS, SIDES), expected)
    assert tissue.tissue_by_brightness(noisy(scene), CENTERS, SIDES)[1:3].all()


def test_specks_do_not_exclude_a_tile(scene):
    """Pigment and refracting edges have the colors of ink but are thin."""
    scene[:, 64:66] = INKS["black"]
    np.testing.assert_array_equal(tissue.tissue_by_saturation(noisy(scene), CENTERS, SIDES), RIGHT)


def test_empty_tiles_next_to_tissue(scene):
    """Empty sums are differences of large sums, which must not be negative."""
    scene = np.tile(scene, (3, 9, 1))
    scene[60:190, 400:600] = INKS["green"]
    centers = RNG.uniform((420, 80), (580, 170), (500, 2))
    assert not tissue.tissue_by_saturation(noisy(scene), centers, SIDES * 1.03).any()


def test_folds_do_not_raise_the_threshold(scene):
    scene[:, 44:60] = (70, 25, 90)
    np.testing.assert_array_equal(tissue.tissue_by_saturation(noisy(scene), CENTERS, SIDES), RIGHT)


def test_shadow_is_not_tissue(scene):
    scene[:, 8:24] *= 0.6
    np.testing.assert_array_equal(tissue.tissue_by_saturation(noisy(scene), CENTERS, SIDES), RIGHT)
    assert tissue.tissue_by_brightness(noisy(scene), CENTERS, SIDES)[1:3].all()


def test_tinted_glass_is_not_tissue(scene):
    tinted = noisy(scene * np.array([1.0, 0.93, 0.97]))
    np.testing.assert_array_equal(tissue.tissue_by_saturation(tinted, CENTERS, SIDES), RIGHT)


@pytest.mark.parametrize("rule", [tissue.tissue_by_brightness, tissue.tissue_by_saturation])
def test_unscanned_regions_are_glass(scene, rule):
    pixels = noisy(scene)
    pixels[:, :30] = 0
    np.testing.assert_array_equal(rule(pixels, CENTERS, SIDES), RIGHT)


def test_slide_without_glass():
    assert tissue.tissue_by_saturation(noisy(stained(80, 80)), CENTERS, SIDES).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((80, 80, 3), 255.0),
        np.tile(np.array(GLASS, float), (80, 80, 1)),
        np.tile(np.linspace(120, 240, 80)[:, None, None], (1, 80, 3)),
        np.zeros((80, 80, 3)),
        np.tile(np.array(INKS["blue"], float), (80, 80, 1)),
    ],
    ids=["white", "glass", "shade", "never scanned", "ink"],
)
def test_slides_without_tissue_are_refused(pixels):
    rgb = pixels.astype(np.uint8) if not pixels.any() else noisy(pixels)
    with pytest.raises(ValueError, match=r"Image 'a' shows no tissue: its most colored parts .* as glass has"):
        tissue.tissue_by_saturation(rgb, CENTERS, SIDES, "Image 'a'")
