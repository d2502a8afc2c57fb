"""Segmentation of nuclei on H&E, and their morphology (arrays only)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .tissue import without_unscanned

if TYPE_CHECKING:
    import pandas as pd

WORK_UM = 0.5
"""Size of a pixel in which nuclei are segmented: a lymphocyte has 12 pixels across."""

# Lengths in µm and areas in µm². Tuned on toy slides of the seeds 0 to 2, and looked at on real sections.
SMOOTH_UM = 0.75  # chromatin and noise
LOCAL_UM = 52.0  # side of the surroundings of a pixel, several cells wide
OPEN_UM = 1.0  # half the width of a bridge that is cut
HOLE_UM2 = 30.0  # pale center of a vesicular nucleus
SEED_UM = 2.0  # half the distance between the centers of touching nuclei
SEED_SMOOTH_UM = 1.0
# A nucleus is darker than its surroundings by this number of standard deviations, and than this share of the threshold
# between nuclei and the rest of the slide.
CONTRAST, FLOOR = 0.6, 0.6
# Optical density that no threshold is below: the noise of a slide without nuclei.
MIN_DENSITY = 0.1
MARGIN_UM = 48.0
"""Reach of the segmentation: pixels farther away do not change a nucleus."""


def hematoxylin(rgb: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Return the optical density (h, w; log10; float32) of hematoxylin, by color deconvolution relative to the glass.

    The stain vectors are those of Ruifrok and Johnston for hematoxylin and eosin. `rgb` is (h, w, 3) in uint8, `glass`
    (3,) is the color of the slide without tissue.
    """
    from skimage.color import rgb_from_hed

    density = np.log10(256 / (np.arange(256) + 1)).astype(np.float32)[without_unscanned(rgb)]
    density -= np.log10(256 / (glass + 1)).astype(np.float32)
    stains = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    unmix = np.linalg.pinv(stains)[:, 0].astype(np.float32)
    return np.maximum(density, 0) @ unmix


def nuclear_threshold(densities: list[np.ndarray]) -> float:
    """Return the density between nuclei and the rest of the tissue: Otsu's threshold over parts of a slide."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    smooth = np.concatenate([gaussian_filter(part, SMOOTH_UM / WORK_UM).ravel() for part in densities])
    stained = smooth[smooth > MIN_DENSITY / 5]  # without glass
    if not len(stained) or stained.min() == stained.max():
        return MIN_DENSITY / FLOOR
    return float(max(threshold_otsu(stained), MIN_DENSITY / FLOOR))


def segment(density: np.ndarray, threshold: float, min_area_um2: float) -> np.ndarray:
    """Return labels (h, w; int32) of nuclei, 0 outside, from the density of hematoxylin at `WORK_UM` per pixel.

    Pixels are nuclear if they are darker than their surroundings (Niblack's local threshold) and than a share of
    `threshold`. Touching nuclei are separated by a watershed from the peaks of the distance to the outline.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label, uniform_filter
    from skimage.feature import peak_local_max
    from skimage.morphology import disk, opening
    from skimage.segmentation import watershed

    smooth = gaussian_filter(density, SMOOTH_UM / WORK_UM)
    side = round(LOCAL_UM / WORK_UM)
    mean = uniform_filter(smooth, side)
    spread = np.sqrt(np.maximum(uniform_filter(smooth * smooth, side) - mean * mean, 0))
    dark = smooth > np.maximum(mean + CONTRAST * spread, FLOOR * threshold)
    dark |= _small(~dark, HOLE_UM2)
    dark = opening(dark, disk(round(OPEN_UM / WORK_UM)))
    dark &= ~_small(dark, min_area_um2)

    depth = gaussian_filter(distance_transform_edt(dark).astype(np.float32), SEED_SMOOTH_UM / WORK_UM)
    parts, _ = label(dark)
    peaks = peak_local_max(depth, min_distance=round(SEED_UM / WORK_UM), labels=parts, exclude_border=False)
    seeds = np.zeros(dark.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=dark)


def _small(mask: np.ndarray, area_um2: float) -> np.ndarray:
    """Return the parts of a mask of at most this area."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    return mask & (np.bincount(parts.ravel()) * WORK_UM**2 <= area_um2)[parts]


def texture(labels: np.ndarray, density: np.ndarray) -> pd.DataFrame:
    """Return what needs the pixels of the nuclei, by label: center in pixels, eccentricity, density and its spread."""
    import pandas as pd
    from skimage.measure import regionprops_table

    names = {
        "label": "label",
        "centroid-1": "x",
        "centroid-0": "y",
        "eccentricity": "eccentricity",
        "intensity_mean": "hematoxylin",
        "intensity_std": "hematoxylin_std",
    }
    properties = ("label", "centroid", "eccentricity", "intensity_mean", "intensity_std")
    frame = pd.DataFrame(regionprops_table(labels, density, properties=properties)).rename(columns=names)
    frame[["x", "y"]] += 0.5  # the center of the first pixel
    return frame.set_index("label")


def outlines(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return polygons (n,) around the labels with these numbers, in pixels."""
    import shapely
    from scipy.ndimage import find_objects
    from skimage.measure import find_contours

    boxes, polygons = find_objects(labels), []
    for number in numbers:
        rows, columns = boxes[number - 1]
        inside = np.pad(labels[rows, columns] == number, 1)
        contour = max(find_contours(inside, 0.5), key=len)  # others are those of holes
        polygons.append(shapely.Polygon(contour[:, ::-1] + (columns.start - 0.5, rows.start - 0.5)))
    return shapely.simplify(np.array(polygons, dtype=object), 0.25)


def draw_labels(polygons: np.ndarray, size: int) -> np.ndarray:
    """Return labels (size, size; int32), from 1 in the order of polygons (n,) in pixels."""
    import shapely
    from skimage.draw import polygon

    labels = np.zeros((size, size), dtype=np.int32)
    for number, shape in enumerate(polygons, start=1):
        for part in shapely.get_parts(shape):
            x, y = shapely.get_coordinates(shapely.get_exterior_ring(part)).T
            labels[polygon(y - 0.5, x - 0.5, labels.shape)] = number
    return labels
