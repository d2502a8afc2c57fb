"""Make the pictures of the figure gallery, the landing page, and the page on geometry.

    DEEPSPOT_DATA=../shared/data python docs/make_gallery.py [--only spatial,umap]

Runs the blocks of docs/examples.md and docs/gallery.md in order, and saves the figure of each section as a JPEG in
docs/_static/gallery. The sections in `TISSUE` are run on section B4 of HER2ST in place of the synthetic slide, with a
model of C2 to C5 of another patient (the one of benchmarks/calibrate.py). That of geometry shows section C5.
Needs `pip install ".[survival]"`, and some minutes; `--model` names a folder that keeps that model between runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle
from PIL import Image
from spatialdata import transform

import deepspot as ds
from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.neighbors import find_neighbors
from deepspot._spatial.transforms import place_spots

HERE = Path(__file__).parent
IMAGES = HERE / "_static"
TISSUE = {"spatial", "gallery", "umap", "evaluation", "alignment"}
PAGES = {"landing", "geometry"}
TRAINING, TESTED, GENE = ("C2", "C3", "C4", "C5"), "B4", "EPCAM"
WIDTH = 1100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sections to draw, separated by commas; `landing` and `geometry` too")
    parser.add_argument("--model", type=Path, help="folder of the model of tissue, which is made if it does not exist")
    options = parser.parse_args()
    wanted = set(options.only.split(",")) if options.only else {*ds.pl.__all__, *PAGES}
    mpl.use("Agg")
    ds.settings.progress = False
    blocks = code("gallery.md")
    setup = [block for title, block in blocks if title == "Figure gallery"]
    if "geometry" in wanted:
        geometry(ds.datasets.her2st("C5"), IMAGES / "geometry.jpg")
    if wanted - TISSUE - PAGES:
        names = scope([*(block for _, block in code("examples.md")), *setup])
        draw([pair for pair in blocks[len(setup) :] if pair[0] not in TISSUE], names, wanted)
    if wanted & {*TISSUE, "landing"}:
        names = tissue(options.model)
        if "landing" in wanted:
            landing(names["sdata"], IMAGES / "landing.jpg")
        draw([pair for pair in blocks[len(setup) :] if pair[0] in TISSUE], names, wanted)


def code(page: str) -> list[tuple[str, str]]:
    """Return the Python blocks of a page with the titles of their sections."""
    parts = re.findall(r"^#+ (.*?)\n|^```python\n(.*?)^```", (HERE / page).read_text(encoding="utf-8"), re.M | re.S)
    title, blocks = "", []
    for heading, block in parts:
        title = heading or title
        if block:
            blocks.append((title, block))
    return blocks


def scope(blocks: list[str]) -> dict[str, Any]:
    """Return the names that these blocks define; files that they write are not kept."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in blocks:
            exec(block, names)
    return names


def tissue(folder: Path | None) -> dict[str, Any]:
    """Return the names of the set-up of the gallery, with the section in place of the synthetic slide."""
    sdata = ds.datasets.her2st(TESTED)
    if folder and folder.exists():
        model = ds.models.load(folder)
    else:
        slides = {name: ds.datasets.her2st(name) for name in TRAINING}
        options = {"genes": 300, "min_detected": 0.1, "network": {"members": 1}, "seed": 0}
        model = ds.models.train(slides, patient_key="patient", **options)
        if folder:
            model.save(folder)
    ds.tl.predict(sdata, model)
    ds.tl.evaluate(sdata)
    return {"ds": ds, "sdata": sdata, "model": model, "gene": GENE}


def draw(blocks: list[tuple[str, str]], names: dict[str, Any], wanted: set[str]) -> None:
    """Run the blocks, and save the last figure of each wanted section.

    `regions` and `markers` are always run: later sections need what they compute.
    """
    for title, block in blocks:
        plt.close("all")
        drawn = title in ds.pl.__all__
        if drawn and title not in wanted and title not in {"regions", "markers"}:
            continue
        exec(block, names)
        if title in wanted:
            save(plt.figure(plt.get_fignums()[-1]), IMAGES / "gallery" / f"{title}.jpg")


def save(figure: plt.Figure, path: Path, width: int = WIDTH) -> None:
    """Write a JPEG that is as wide as a page needs at most."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, bbox_inches="tight", facecolor="white")
    image = Image.open(file).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=85, optimize=True, progressive=True)
    print(f"{path.relative_to(HERE)}: {image.width} x {image.height}, {path.stat().st_size / 1e3:.0f} kB", flush=True)


def landing(sdata: Any, path: Path) -> None:
    """Draw the image of a section with its spots, beside the measured and the predicted expression of a gene."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    ds.pl.spatial(sdata, GENE, ax=axes[1:], image_alpha=0.3)
    background = axes[1].images[0]
    axes[0].imshow(background.get_array(), extent=background.get_extent())
    circles = transform(sdata["spots"], to_coordinate_system="microns")
    centers, sides = np.c_[circles.geometry.x, circles.geometry.y], circles["diameter_um"]
    spots = EllipseCollection(sides, sides, np.zeros(len(sides)), units="xy", offsets=centers)
    spots.set(offset_transform=axes[0].transData, facecolor="none", edgecolor="#2b6cb0", linewidth=0.8)
    axes[0].add_collection(spots)
    axes[0].set(xlim=axes[1].get_xlim(), ylim=axes[1].get_ylim(), title="H&E image and spots")
    axes[0].set_axis_off()
    r = sdata["deepspot_spots"].var["pearson"].dropna()
    print(f"{GENE}: r {r[GENE]:.2f}, rank {int((r > r[GENE]).sum()) + 1} of {len(r)} genes, mean {r.mean():.2f}")
    save(figure, path)


def geometry(sdata: Any, path: Path) -> None:
    """Draw the tile, the sub-spots and the neighbors of a spot, on the array of the training and on a denser one."""
    shown = ds.models.load().card.geometry
    placed = place_spots(sdata, "C5_image", "spots")
    spots = placed.centers * placed.mpp
    middle = spots[np.linalg.norm(spots - np.median(spots, axis=0), axis=1).argmin()]
    corners = np.round(np.stack([middle - 390, middle + 390]) / placed.mpp).astype(int)
    (left, top), (right, bottom) = corners
    pixels = pyramid_levels(sdata, "C5_image")[0][:, top:bottom, left:right].transpose("y", "x", "c").to_numpy()
    (left, top), (right, bottom) = corners * placed.mpp
    dense = middle + np.stack(np.meshgrid(*2 * [np.arange(-350, 351, 50)]), axis=-1).reshape(-1, 2)
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.3), layout="constrained")
    titles = (f"Spots {shown.neighbors.pitch_um:.0f} µm apart, as in training", "Places 50 µm apart, the same model")
    for ax, centers, title in zip(axes, (spots, dense), titles, strict=True):
        ax.imshow(pixels, extent=(left, right, bottom, top), alpha=0.75)
        chosen = np.linalg.norm(centers - middle, axis=1).argmin()
        near = find_neighbors(centers, shown.neighbors)[chosen].indices
        others = np.delete(centers, [chosen, *near], axis=0)
        ax.plot(*others.T, ".", color="black", markersize=4)
        for center in centers[near]:
            square(ax, center, shown.tile.tile_um, edgecolor="#D55E00", linewidth=2)
        square(ax, centers[chosen], shown.tile.tile_um, edgecolor="#0072B2", linewidth=3)
        part = shown.tile.tile_um / shown.tile.grid
        for x, y in np.ndindex(shown.tile.grid, shown.tile.grid):
            offset = (np.array([x, y]) - (shown.tile.grid - 1) / 2) * part
            square(ax, centers[chosen] + offset, part, edgecolor="#0072B2", linewidth=1)
        ax.set(xlim=(left, right), ylim=(bottom, top), title=title)
        ax.set_axis_off()
    save(figure, path, width=850)


def square(ax: plt.Axes, center: np.ndarray, side: float, **options: Any) -> None:
    """Draw the outline of a square."""
    ax.add_patch(Rectangle(center - side / 2, side, side, facecolor="none", **options))


if __name__ == "__main__":
    main()
