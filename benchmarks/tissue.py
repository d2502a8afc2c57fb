"""Compare rules of tissue detection on real sections: the two of deepspot and the three of squidpy.

    DEEPSPOT_DATA=../shared/data python benchmarks/tissue.py

The ground truth are the spots that the authors of the HER2-positive breast cancer data measured, all of them on tissue.
The other positions of their array are on glass, or on tissue that the authors left out. A faded stain is the image
mixed with its glass. Simulated on a copy of C2 at half its resolution: strokes of five inks on glass and on tissue,
opaque to nine tenths; a shadow; and a fold, where the light passes through tissue three times more. All rules get the
same downscaled image. squidpy's rules give a mask of pixels; a tile shows tissue if half of it is in the mask. The last
table compares the time that deepspot and squidpy need to place a grid of tiles on tissue. Writes
benchmarks/results/tissue.md and .jpg.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import squidpy as sq
import torch
from _timing import in_turn
from matplotlib.collections import EllipseCollection
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

import deepspot as ds
from deepspot._core.keys import ARRAY
from deepspot._image.tiles import coarse_image, level_sizes, pyramid_levels
from deepspot._image.tissue import PER_TILE, tile_means, tissue_by_brightness, tissue_by_saturation
from deepspot._spatial.transforms import centers_px, microns_per_pixel, place_spots

SECTIONS, DIAMETER_UM = ["B4", "C2", "C3", "C4", "C5"], 100.0
DENSE = {"diameter_um": 55, "pitch_um": 100}
LEFT = (1.0, 0.5, 0.3)
SVS = "wsi/CMU-1-Small-Region.svs"
GLASS = 235
# Lines in shares of width and height: each runs over glass and into the tissue.
INKS = {
    "blue ink": ((30, 60, 170), [(0.03, 0.06), (0.2, 0.3), (0.35, 0.55)]),
    "dark blue ink": ((25, 35, 130), [(0.04, 0.95), (0.25, 0.8), (0.33, 0.6)]),
    "green ink": ((20, 120, 70), [(0.97, 0.1), (0.75, 0.25), (0.6, 0.5)]),
    "red ink": ((205, 25, 40), [(0.97, 0.95), (0.8, 0.9), (0.65, 0.65)]),
    "black ink": ((30, 30, 34), [(0.45, 0.02), (0.3, 0.15), (0.5, 0.4)]),
}
WIDTH_UM, COVERS = 250, 0.9
SHADOW, FOLD = "shadow on glass", "fold in tissue"
OUT = Path(__file__).parent / "results" / "tissue"

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def squidpy_rule(method: str) -> Rule:
    """Return a rule that selects the tiles with at least half of their area in squidpy's mask."""

    def rule(rgb: np.ndarray, centers: np.ndarray, sides: np.ndarray) -> np.ndarray:
        parsed = Image2DModel.parse(rgb.transpose(2, 0, 1), dims=("c", "y", "x"))
        mask = sq.experimental.im.detect_tissue(
            SpatialData(images={"image": parsed}), "image", method=method, inplace=False
        )
        return tile_means((np.asarray(mask) > 0).astype(np.float32), centers, sides) >= 0.5

    return rule


OURS = {"brightness": tissue_by_brightness, "saturation": tissue_by_saturation}
RULES: dict[str, Rule] = {
    **OURS,
    **{f"squidpy {name}": squidpy_rule(name) for name in ("otsu", "felzenszwalb", "weka")},
}


def main() -> None:
    ds.settings.progress = False
    mpl.use("Agg")
    slides = {name: ds.datasets.her2st(name) for name in SECTIONS}
    text = agreement(slides)
    table, marked = defects(slides["C2"])
    text += ["", *table, "", *seconds(slides["C2"])]
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    svs = ds.io.slide(Path(os.environ["DEEPSPOT_DATA"]) / SVS)
    draw({"B4": slides["B4"], "C3": slides["C3"], "C2 with defects": marked, "CMU-1": svs})
    print(OUT.with_suffix(".md").read_text())


def agreement(slides: dict[str, SpatialData]) -> list[str]:
    lines = [
        "Share of spots that a rule selects: of the measured spots / of the other positions of the array.",
        "",
        f"| section | stain left | {' | '.join(RULES)} |",
        f"|{'---|' * (2 + len(RULES))}",
    ]
    for name, sdata in slides.items():
        measured, others, mpp = positions(name, sdata)
        rgb, scale = coarse(sdata, DIAMETER_UM / mpp)
        for left in LEFT:
            pale = np.round(GLASS - (GLASS - rgb.astype(float)) * left).clip(1, 255).astype(np.uint8)
            cells = []
            for rule in RULES:
                keep = decide(rule, pale, scale, np.vstack([measured, others]), DIAMETER_UM / mpp)
                cells.append(f"{keep[: len(measured)].mean():.3f} / {keep[len(measured) :].mean():.3f}")
            counts = f" ({len(measured)} and {len(others)})" if left == 1 else ""
            lines.append(f"| {name}{counts} | {left:g} | {' | '.join(cells)} |")
    return lines


def positions(name: str, sdata: SpatialData) -> tuple[np.ndarray, np.ndarray, float]:
    """Return pixels of the measured spots and of the other positions of the array in the image, and µm per pixel."""
    placement = place_spots(sdata, f"{name}_image", "spots")
    array = sdata.tables["table"].obs[list(ARRAY)].to_numpy(dtype=float)
    plane = np.linalg.lstsq(np.column_stack([array, np.ones(len(array))]), placement.centers, rcond=None)[0]
    have = {tuple(at) for at in array}
    free = np.array([(row, col) for row in range(40) for col in range(40) if (row, col) not in have])
    others = np.column_stack([free, np.ones(len(free))]) @ plane
    height, width = level_sizes(pyramid_levels(sdata, f"{name}_image"))[0]
    radius = DIAMETER_UM / placement.mpp / 2
    inside = ((others >= radius) & (others <= np.array([width, height]) - radius)).all(axis=1)
    return placement.centers, others[inside], placement.mpp


def coarse(sdata: SpatialData, side: float) -> tuple[np.ndarray, np.ndarray]:
    return coarse_image(pyramid_levels(sdata, next(iter(sdata.images))), side / PER_TILE)


def decide(rule: str, rgb: np.ndarray, scale: np.ndarray, centers: np.ndarray, side: float) -> np.ndarray:
    return RULES[rule](rgb, centers / scale, side / scale)


def defects(sdata: SpatialData) -> tuple[list[str], SpatialData]:
    """Simulate defects on C2, and count which of the spots on them a rule selects."""
    image_key = next(iter(sdata.images))
    mpp = 2 * microns_per_pixel(sdata, image_key)
    clean = coarse_image(pyramid_levels(sdata, image_key), 2)[0]
    sdata = slide_of(clean, mpp)
    dirty, masks = clean.astype(np.float32), {}
    size = np.array(clean.shape[1::-1])
    for name, (color, line) in INKS.items():
        masks[name] = cover = stroke(size, line, WIDTH_UM / mpp)
        dirty += cover[..., None] * COVERS * (np.array(color) - dirty)
    masks[SHADOW] = cover = blob(size, (0.85, 0.5), 300 / mpp)
    dirty *= 1 - 0.5 * cover[..., None]
    masks[FOLD] = cover = stroke(size, [(0.5, 0.55), (0.55, 0.85)], 150 / mpp)
    twice = dirty * np.roll(dirty, 60, axis=1) / 255
    dirty += cover[..., None] * (twice * np.roll(twice, 30, axis=0) / 255 - dirty)
    marked = slide_of(dirty.round().clip(1, 255).astype(np.uint8), mpp)

    ds.pp.spots(marked, **DENSE, tissue=None, key_added="all")
    centers, side = centers_px(marked, "marked_image", "all"), 55 / mpp
    selected = {
        (rule, state): decide(rule, *coarse(slide, side), centers, side)
        for rule in RULES
        for state, slide in (("clean", sdata), ("marked", marked))
    }
    tissue = selected["brightness", "clean"] & selected["saturation", "clean"]
    glass = ~selected["brightness", "clean"] & ~selected["saturation", "clean"]
    covered = {name: mean_of(mask, centers, side) for name, mask in masks.items()}
    free = np.max(list(covered.values()), axis=0) < 0.01
    inked = np.max([covered[name] for name in INKS], axis=0)
    lines = [
        "Spots of 55 µm, 100 µm apart, on C2 with simulated defects: number of spots that a rule selects, of those "
        "with a tile that a defect covers to at least three quarters. Glass and tissue are where both rules of "
        "deepspot agree on the image without defects.",
        "",
        f"| spots | right | number | {' | '.join(RULES)} |",
        f"|{'---|' * (3 + len(RULES))}",
    ]
    cases = [(name, share > 0.75, glass, "on glass", "none") for name, share in covered.items() if name in INKS]
    cases += [(name, share > 0.75, tissue, "on tissue", "none") for name, share in covered.items() if name in INKS]
    cases += [(SHADOW, covered[SHADOW] > 0.75, glass, "", "none"), (FOLD, covered[FOLD] > 0.75, tissue, "", "all")]
    cases += [("ink in 1 to 75 % of the tile", (inked >= 0.01) & (inked <= 0.75), glass, "on glass", "none")]
    cases += [("elsewhere", free, glass, "on glass", "none"), ("elsewhere", free, tissue, "on tissue", "all")]
    for name, where, under, suffix, right in cases:
        rows = where & under
        kept = [str(selected[rule, "marked"][rows].sum()) for rule in RULES]
        lines.append(f"| {f'{name} {suffix}'.strip()} | {right} | {rows.sum()} | {' | '.join(kept)} |")
    return lines, marked


def stroke(size: np.ndarray, line: list[tuple[float, float]], width: float) -> np.ndarray:
    """Return the share of every pixel (h, w) that a broad line with soft edges covers."""
    quarter = Image.new("L", tuple(size // 4))
    ImageDraw.Draw(quarter).line([tuple(np.array(at) * size // 4) for at in line], 255, round(width / 4), "curve")
    soft = gaussian_filter(np.asarray(quarter, dtype=np.float32) / 255, 3)
    return np.asarray(Image.fromarray(soft).resize(tuple(size)))


def blob(size: np.ndarray, middle: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[: size[1], : size[0]]
    distance = np.hypot(x - middle[0] * size[0], y - middle[1] * size[1])
    return (1 / (1 + np.exp((distance - radius) / (radius / 10)))).astype(np.float32)


def mean_of(mask: np.ndarray, centers: np.ndarray, side: float) -> np.ndarray:
    corners = (centers - side / 2).astype(int)
    return np.array([mask[y : y + int(side), x : x + int(side)].mean() for x, y in corners])


def slide_of(image: np.ndarray, mpp: float) -> SpatialData:
    """Return a slide with an image (h, w, 3)."""
    parsed = Image2DModel.parse(image.transpose(2, 0, 1), dims=("c", "y", "x"), chunks=(3, 2048, 2048))
    sdata = SpatialData(images={"marked_image": parsed})
    ds.pp.set_scale(sdata, mpp=mpp)
    return sdata


def seconds(sdata: SpatialData) -> list[str]:
    """Compare the time to place a grid of tiles on the tissue of a slide without a pyramid."""
    side = round(DIAMETER_UM / microns_per_pixel(sdata, "C2_image"))
    options = {"tile_size": (side, side), "min_tissue_fraction": 0.5, "preview": False}

    def with_squidpy() -> None:
        for key in list(sdata.labels):
            del sdata.labels[key]
        sq.experimental.im.make_tiles(sdata, "C2_image", **options)

    calls: dict[str, Callable[[], object]] = {"squidpy make_tiles": with_squidpy}
    for rule in OURS:
        size = {"diameter_um": DIAMETER_UM, "pitch_um": DIAMETER_UM, "image_key": "C2_image", "overwrite": True}
        calls[rule] = partial(ds.pp.spots, sdata, tissue=rule, key_added="grid", **size)
    times = in_turn(calls, 5, torch.device("cpu"))
    height, width = level_sizes(pyramid_levels(sdata, "C2_image"))[0]
    return [
        f"Time for a grid of tiles of {side} px on the tissue of C2 ({width:,} × {height:,} px in memory), relative to "
        "squidpy's `make_tiles` with its default tissue mask. Median of five rounds, all measured in turn.",
        "",
        "| call | time |",
        "|---|---|",
        *(f"| {name} | {np.median(value / times['squidpy make_tiles']):.2f} |" for name, value in times.items()),
    ]


def draw(slides: dict[str, SpatialData]) -> None:
    """Draw the spots on the slides: one row per rule of `ds.pp.spots`."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(OURS), len(slides), figsize=(5 * len(slides), 4.6 * len(OURS)), squeeze=False)
    for column, (name, sdata) in enumerate(slides.items()):
        image_key = next(iter(sdata.images))
        rgb, scale = coarse_image(pyramid_levels(sdata, image_key), 8 if name != "CMU-1" else 3)
        for row, rule in enumerate(OURS):
            ds.pp.spots(sdata, **DENSE, image_key=image_key, tissue=rule, key_added="drawn", overwrite=True)
            centers = centers_px(sdata, image_key, "drawn") / scale
            side = 55 / microns_per_pixel(sdata, image_key) / scale[0]
            ax = axes[row, column]
            ax.imshow(rgb)
            circles = {"facecolors": "none", "edgecolors": "#00a000", "linewidths": 0.7}
            ax.add_collection(
                EllipseCollection(side, side, 0, units="xy", offsets=centers, transOffset=ax.transData, **circles)
            )
            ax.set_title(f"{name}: {rule}, {len(centers):,} spots", fontsize=11)
            ax.set_axis_off()
    figure.tight_layout()
    figure.savefig(OUT.with_suffix(".jpg"), dpi=80, pil_kwargs={"quality": 88})
    plt.close(figure)


if __name__ == "__main__":
    main()
