"""Image of a toy slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import expit

from .tissue import CLASSES, GRID_UM, LOOKS, Array, Cells, Nuclei, Tissue, smooth_noise

HEMATOXYLIN = (0.62, 0.70, 0.35)
EOSIN = (0.18, 0.85, 0.46)
CYTOPLASM_UM = 9.2
CHUNK = 250

Plane = NDArray[np.float32]


def draw(
    rng: np.random.Generator, tissue: Tissue, cells: dict[str, Cells], mpp: float, stains: Array
) -> NDArray[np.uint8]:
    """Render the slide as an image (h, w, 3) by the Beer-Lambert law.

    `rng` draws the texture only. `stains` (3, 3) are the optical densities of hematoxylin, eosin and glass in RGB.
    """
    hematoxylin, eosin = _ground(rng, tissue, mpp)
    tumor = cells["tumor"].xy
    _stamp(eosin, tumor, np.full(len(tumor), CYTOPLASM_UM + 2), mpp, _cytoplasm)
    for name in CLASSES:
        _stamp_nuclei(hematoxylin, cells[name], LOOKS[name], mpp)
    hematoxylin *= 1 + 0.06 * rng.standard_normal(hematoxylin.shape, dtype=np.float32)
    image = np.empty((*eosin.shape, 3), dtype=np.uint8)
    for channel, (h, e, glass) in enumerate(stains.T.astype(np.float32)):
        light = 255 * np.exp(-(hematoxylin * h + eosin * e + glass))
        light += 1.2 * rng.standard_normal(light.shape, dtype=np.float32)  # sensor noise
        image[..., channel] = np.clip(np.rint(light), 0, 255)
    return image


def stain_colors(rng: np.random.Generator, shift: float) -> Array:
    """Draw optical densities (3, 3) of the stains and the glass of a patient; `shift` 0 gives standard colors."""
    colors = np.array([HEMATOXYLIN, EOSIN])
    colors = np.clip(colors + shift * rng.normal(0, 0.14, (2, 3)), 0.02, None)
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    colors *= np.exp(shift * rng.normal(0, 0.40, (2, 1)))
    glass = 0.02 + shift * rng.uniform(0, 0.06, 3)
    return np.vstack([colors, glass])


def _ground(rng: np.random.Generator, tissue: Tissue, mpp: float) -> tuple[Plane, Plane]:
    """Return the densities of both stains without cells."""
    tumor, lymphoid, stroma, necrosis = (_upsample(grid, mpp) for grid in tissue.composition)
    shape = tumor.shape
    fiber = _fibers(rng, tissue, mpp)
    grain = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.9 / mpp)
    grain /= grain.std()
    cloud = _upsample(smooth_noise(rng, tissue.edge_um.shape, 1.2), mpp)

    eosin = stroma * np.clip(0.46 + 0.19 * fiber, 0.05, None)
    eosin += tumor * (0.15 + 0.03 * grain)
    eosin += lymphoid * (0.17 + 0.04 * grain)
    eosin += necrosis * np.clip(0.46 + 0.14 * grain + 0.10 * cloud, 0.08, None)
    # Cytoplasm of tumor and lymphoid cells is bluish; necrosis has nuclear dust.
    hematoxylin = 0.14 * tumor + 0.13 * lymphoid + 0.03 * stroma
    hematoxylin += necrosis * 0.55 * expit(5 * (grain + 0.5 * cloud - 2.1))
    present = expit(_upsample(tissue.edge_um, mpp) / np.float32(0.7))
    return hematoxylin * present, eosin * present


def _upsample(grid: Array, mpp: float) -> Plane:
    """Resample a map on the tissue grid to pixels of the image."""
    from PIL import Image

    height, width = (int(n * GRID_UM / mpp) for n in grid.shape)
    box = (0.0, 0.0, width * mpp / GRID_UM, height * mpp / GRID_UM)
    image = Image.fromarray(grid.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _fibers(rng: np.random.Generator, tissue: Tissue, mpp: float) -> Plane:
    """Draw wavy fibers: anisotropic noise in the curved coordinates of the stroma."""
    texture = smooth_noise(rng, (512, 512), (1.3, 5.0)) + 0.8 * smooth_noise(rng, (512, 512), (3.5, 9.0))
    at = np.stack([_upsample(tissue.across_um, mpp), _upsample(tissue.along_um, mpp) / 4])
    return map_coordinates(texture.astype(np.float32), at, order=1, mode="grid-wrap")


def _stamp(
    plane: Plane, xy: Array, reach_um: Array, mpp: float, shape: Callable[..., Plane], columns: Sequence[Array] = ()
) -> None:
    """Add `shape(dx, dy, *columns)` around every position; overlapping stamps take the maximum."""
    if len(xy) == 0:
        return
    margin = int(np.ceil(reach_um.max() / mpp)) + 1
    padded = np.zeros((plane.shape[0] + 2 * margin, plane.shape[1] + 2 * margin), dtype=np.float32)
    order = np.argsort(reach_um, kind="stable")  # groups stamps of similar size
    for start in range(0, len(xy), CHUNK):
        part = order[start : start + CHUNK]
        half = int(np.ceil(reach_um[part[-1]] / mpp))
        offsets = np.arange(-half, half + 1)
        pixel = np.floor(xy[part] / mpp).astype(int)
        center = pixel + 0.5 - xy[part] / mpp
        dx = ((center[:, 0, None, None] + offsets[None, None, :]) * mpp).astype(np.float32)
        dy = ((center[:, 1, None, None] + offsets[None, :, None]) * mpp).astype(np.float32)
        values = shape(dx, dy, *(column[part, None, None].astype(np.float32) for column in columns))
        rows = pixel[:, 1, None, None] + margin + offsets[None, :, None]
        cols = pixel[:, 0, None, None] + margin + offsets[None, None, :]
        np.maximum.at(padded.ravel(), (rows * padded.shape[1] + cols).ravel(), values.ravel())
    plane += padded[margin:-margin, margin:-margin]


def _cytoplasm(dx: Plane, dy: Plane) -> Plane:
    return 0.30 * expit((CYTOPLASM_UM - np.hypot(dx, dy)) * np.float32(1.2))


def _stamp_nuclei(plane: Plane, cells: Cells, look: Nuclei, mpp: float) -> None:
    sharpness = np.float32(3.0 / max(mpp, 0.5))  # per µm: the membrane is about one pixel wide

    def nucleus(dx: Plane, dy: Plane, *columns: Plane) -> Plane:
        long, short, cos, sin, two, three, dark = columns
        u = (dx * cos + dy * sin) / long
        v = (dy * cos - dx * sin) / short
        uu, vv = u * u, v * v
        square = uu + vv + np.float32(1e-6)
        r = np.sqrt(square)
        # cos 2φ and cos 3φ of the outline without computing φ
        r /= 1 + two * (uu - vv) / square + three * u * (uu - 3 * vv) / (square * r)
        density = look.core + (look.rim - look.core) * np.minimum(r, 1) ** 2
        if look.nucleolus:
            away = np.hypot(dx - two * 8, dy - three * 8)
            density = density + look.nucleolus * expit((np.float32(1.2) - away) * np.float32(3.0))
        return density * dark * expit((1 - r) * short * sharpness)

    reach = cells.long * (1 + np.abs(cells.lobes).sum(axis=1)) + 1.5 / sharpness
    columns = (cells.long, cells.short, np.cos(cells.angle), np.sin(cells.angle), *cells.lobes.T, cells.darkness)
    _stamp(plane, cells.xy, reach, mpp, nucleus, columns)
