"""Quality control on planted artifacts, and stain normalization across patients whose stains differ.

    DEEPSPOT_DATA=../shared/data python benchmarks/quality.py [detection cost accuracy stains]

*Detection.* On toy slides (0.5 µm per pixel) and real sections, two round regions are blurred (Gaussian, sigma of 2 and
4 µm, with the noise of a sensor added), a stroke of tissue is folded (the light passes through it and through tissue 30
µm beside it), and strokes of five inks are drawn. Truth is by square of 50 µm: at least half of it planted, or less
than 2 %; squares between are left out. Blur and folds are judged on tissue. The limits of deepspot were chosen on two
toy slides of another seed, on CMU-1 and, by the number of squares that they flag, on C5: none of these is used here.
squidpy gets the same image at 1 µm per pixel, in tiles of the same size.

*Accuracy.* Tuned ridge on spot and neighbors, each patient left out in turn. Predictions of the same spots from the
clean and from the planted image; r is over spots centered by patient.

*Stains.* `cross_validate` on the same cohort and on the sections, with and without normalization.

Writes benchmarks/results/quality.md and quality.jpg.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import squidpy as sq
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from spatialdata import SpatialData, deepcopy
from spatialdata.models import Image2DModel, Labels2DModel
from spatialdata.transformations import get_transformation
from squidpy.experimental.im import QCMetric
from tissue import INKS, blob, stroke

import deepspot as ds
from deepspot._image.quality import ARTIFACTS, SQUARE_UM, quality_map
from deepspot._image.tiles import pyramid_levels
from deepspot._image.tissue import glass_color, tile_means
from deepspot._spatial.transforms import centers_px, microns_per_pixel
from deepspot._stats.metrics import pearson
from deepspot.models._training.config import SlideKeys, TileConfig
from deepspot.models._training.plan import plan_slides
from deepspot.models._training.targets import choose_genes, targets, training_set

SEED = 0
TOY = {"n_patients": 4, "n_rows": 10, "n_cols": 12, "mpp": 0.5, "stain_shift": 1.0}
SECTIONS = ["B4", "C2", "C3"]
BLURS = {"blurred, sigma 2 µm": ((0.33, 0.35), 2.0), "blurred, sigma 4 µm": ((0.7, 0.7), 4.0)}
FOLD, FOLD_UM, SHIFT_UM = [(0.25, 0.8), (0.45, 0.6), (0.55, 0.45), (0.8, 0.3)], 90, 30
PEN_UM, COVERS, NOISE = 100, 0.85, 1.2
RIDGE = partial(ds.models.Ridge, context=("spot", "neighbors"))
OUT = Path(__file__).parent / "results" / "quality"


def plant(clean: np.ndarray, mpp: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return an image (h, w, 3) with artifacts, and the share of each pixel (h, w) that they cover."""
    rng, size, image = np.random.default_rng(SEED), np.array(clean.shape[1::-1]), clean.astype(np.float32)
    masks, glass, shift = {}, glass_color(clean), round(SHIFT_UM / mpp)
    second = np.roll(image, shift, axis=1) / glass
    # A fold has tissue on tissue.
    both = (-np.log(second.clip(1e-3)).mean(axis=2) > 0.1) & (-np.log((image + 1) / (glass + 1)).mean(axis=2) > 0.1)
    masks["folded"] = stroke(size, FOLD, FOLD_UM / mpp)
    image += masks["folded"][..., None] * (image * second - image)
    masks["folded"] = masks["folded"] * both
    for name, (middle, sigma) in BLURS.items():
        masks[name] = blob(size, middle, 0.13 * size.min())
        soft = gaussian_filter(image, (sigma / mpp, sigma / mpp, 0))
        soft += NOISE * rng.standard_normal(soft.shape, dtype=np.float32)
        image += masks[name][..., None] * (soft - image)
    masks["pen"] = np.zeros(clean.shape[:2], dtype=np.float32)
    for color, line in INKS.values():
        mark = stroke(size, line[:2], PEN_UM / mpp)
        image += mark[..., None] * COVERS * (np.array(color, dtype=np.float32) - image)
        masks["pen"] = np.maximum(masks["pen"], mark)
    return image.round().clip(1, 255).astype(np.uint8), masks


def pixels(sdata: SpatialData) -> tuple[np.ndarray, float]:
    """Return the image (h, w, 3) around the spots, and µm per pixel."""
    (key,) = sdata.images
    level, mpp = pyramid_levels(sdata, key)[0], microns_per_pixel(sdata, key)
    centers, margin = centers_px(sdata, key, "spots"), 150 / mpp
    low = np.maximum(centers.min(axis=0) - margin, 0).astype(int)
    high = (centers.max(axis=0) + margin).astype(int)
    return level.isel(x=slice(low[0], high[0]), y=slice(low[1], high[1])).transpose("y", "x", "c").to_numpy(), mpp


def parsed(image: np.ndarray, chunk: int = 1024, **options: object) -> Image2DModel:
    return Image2DModel.parse(
        image.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=["r", "g", "b"], chunks=(3, chunk, chunk), **options
    )


def squares(mask: np.ndarray, mpp: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the mean of a mask (h, w) in squares (rows, columns) of 50 µm."""
    side = SQUARE_UM / mpp
    centers = (np.indices(shape).reshape(2, -1).T[:, ::-1] + 0.5) * side
    return tile_means(mask.astype(np.float32), centers, np.array([side, side])).reshape(shape)


def by_squidpy(image: np.ndarray, mpp: float) -> dict[str, np.ndarray]:
    """Return squidpy's metrics of the squares (rows, columns) of an image, in complete tiles of 50 µm."""
    size = [int(side * mpp / SQUARE_UM) * round(SQUARE_UM) for side in image.shape[1::-1]]
    box = (0.0, 0.0, *(side / mpp for side in size))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=box))
    sdata = SpatialData(images={"image": parsed(small)})
    metrics = [QCMetric.TENENGRAD, QCMetric.VAR_OF_LAPLACIAN, QCMetric.FOLD_FRACTION, QCMetric.TISSUE_FRACTION]
    side = (round(SQUARE_UM),) * 2
    sq.experimental.im.qc_image(sdata, "image", metrics=metrics, tile_size=side, progress=False, preview=False)
    table, shape = sdata["qc_img_image"], (size[1] // side[0], size[0] // side[1])
    found = {name: np.asarray(table[:, f"qc_{name}"].X, dtype=float).reshape(shape) for name in metrics}
    return found | {"outlier": (table.obs["qc_outlier"] == "True").to_numpy().reshape(shape)}


def judge(name: str, image: np.ndarray, mpp: float) -> list[dict]:
    """Plant artifacts, and compare deepspot, squidpy and brightness with the truth."""
    marked, masks = plant(image, mpp)
    ours = quality_map([parsed(marked)], mpp, "The image")
    theirs = by_squidpy(marked, mpp)
    shape = theirs["outlier"].shape
    shares = {key: squares(mask, mpp, ours.pen.shape)[: shape[0], : shape[1]] for key, mask in masks.items()}
    clean, glass = image.astype(np.float32), glass_color(image)
    density = squares((-np.log((clean + 1) / (glass + 1)).mean(axis=2)).clip(0), mpp, ours.pen.shape)
    tissue = density[: shape[0], : shape[1]] > 0.15
    verdicts = {key: value[: shape[0], : shape[1]] for key, value in ours.artifacts().items()}
    measures = {key: getattr(ours, key)[: shape[0], : shape[1]] for key in ("focus", "darkness", "pen", "background")}
    dark = squares(255 - marked.mean(axis=2), mpp, ours.pen.shape)[: shape[0], : shape[1]]
    rows = []
    for key, share in shares.items():
        others = np.max([value for other, value in shares.items() if other != key], axis=0) < 0.02
        where = others & (np.ones_like(tissue) if key == "pen" else tissue)
        truth = np.where(share >= 0.5, 1.0, np.where(share < 0.02, 0.0, np.nan))
        if key.startswith("blurred"):
            scores = {"deepspot": (-measures["focus"], verdicts["blurred"])}
            scores["squidpy var_of_laplacian"] = (-theirs["var_of_laplacian"], theirs["outlier"])
            scores["squidpy tenengrad"] = (-theirs["tenengrad"], theirs["outlier"])
        elif key == "folded":
            scores = {"deepspot": (measures["darkness"], verdicts["folded"])}
            scores["squidpy fold_fraction"] = (theirs["fold_fraction"], theirs["fold_fraction"] > 0.05)
        else:
            scores = {"deepspot": (measures["pen"], verdicts["pen"])}
        scores["darkness alone"] = (dark, None)
        for method, (score, verdict) in scores.items():
            rows.append({"slide": name, "artifact": key, "method": method} | agreement(truth, score, verdict, where))
    glassy = np.where(density[: shape[0], : shape[1]] < 0.03, 1.0, np.where(tissue, 0.0, np.nan))
    free = np.max(list(shares.values()), axis=0) < 0.02
    for method, score in {
        "deepspot": measures["background"],
        "squidpy tissue_fraction": 1 - theirs["tissue_fraction"],
        "darkness alone": -dark,
    }.items():
        verdict = None if method == "darkness alone" else score > 0.5
        rows.append({"slide": name, "artifact": "background", "method": method})
        rows[-1] |= agreement(glassy, score, verdict, free)
    return rows


def agreement(truth: np.ndarray, score: np.ndarray, verdict: np.ndarray | None, where: np.ndarray) -> dict:
    """Return AUC and the numbers of true and false verdicts; squares without a score are judged good."""
    known = where & np.isfinite(truth)
    bad = truth[known] == 1
    values = np.where(np.isfinite(score[known]), score[known], np.nanmin(score))
    found = {"bad": int(bad.sum()), "good": int((~bad).sum())}
    if bad.any() and not bad.all():
        found["auc"] = float(roc_auc_score(bad, values))
    if verdict is not None:
        found |= {"hits": int(verdict[known][bad].sum()), "false": int(verdict[known][~bad].sum())}
    return found


def detection() -> list[str]:
    slides = {f"toy {name}": sdata for name, sdata in ds.datasets.toy(**TOY, seed=SEED).items()}
    slides |= {name: ds.datasets.her2st(name) for name in SECTIONS}
    rows, shown = [], None
    for name, sdata in slides.items():
        image, mpp = pixels(sdata)
        rows += judge(name, image, mpp)
        print(name, flush=True)
        shown = (image, mpp) if name == "C2" else shown
    if shown is not None:
        draw(*shown)
    table = pd.DataFrame(rows)
    table["cohort"] = np.where(table["slide"].str.startswith("toy"), "toy", "sections")
    lines = [
        "| artifact | slides | squares: bad, good | method | AUC, mean (least) | recall | precision |",
        "|---|---|---|---|---|---|---|",
    ]
    for (artifact, cohort, method), part in table.groupby(["artifact", "cohort", "method"], sort=False):
        hits, false = part["hits"].sum(), part["false"].sum()
        verdict = f"{hits / part['bad'].sum():.2f} | {hits / max(hits + false, 1):.2f}"
        verdict = verdict if part["hits"].notna().any() else " | "
        lines.append(
            f"| {artifact} | {len(part)} {cohort} | {part['bad'].sum():,}, {part['good'].sum():,} | {method} | "
            f"{part['auc'].mean():.3f} ({part['auc'].min():.3f}) | {verdict} |"
        )
    return lines


def draw(image: np.ndarray, mpp: float) -> None:
    """Draw a section with planted artifacts and the regions that were found."""
    import matplotlib.pyplot as plt

    marked, _ = plant(image, mpp)
    found = quality_map([parsed(marked)], mpp, "The image")
    step = 8
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    for ax in axes[:2]:
        ax.imshow(marked[::step, ::step])
    colors = {"blurred": "#0072b2", "folded": "#e69f00", "pen": "#009e73"}
    for name, outlines in found.outlines().items():
        for number, outline in enumerate(outlines):
            x, y = np.array(outline.exterior.coords).T / step
            axes[1].plot(x, y, color=colors[name], lw=2, label=name if number == 0 else None)
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3)
    shape = marked[::step, ::step].shape
    extent = (0, found.focus.shape[1] * found.side / step, found.focus.shape[0] * found.side / step, 0)
    drawn = axes[2].imshow(found.focus.clip(0.01, 3), norm=mpl.colors.LogNorm(0.02, 3), extent=extent, cmap="viridis")
    axes[2].set(xlim=(0, shape[1]), ylim=(shape[0], 0))
    figure.colorbar(drawn, ax=axes[2], label="focus")
    for ax, title in zip(axes, ("planted artifacts", "regions found", "focus of the squares"), strict=True):
        ax.set_title(title)
        ax.set_axis_off()
    figure.savefig(OUT.with_suffix(".jpg"), dpi=80, pil_kwargs={"quality": 85})
    plt.close(figure)


def accuracy() -> list[str]:
    """r of tuned ridge on held-out patients, of the same spots in the clean and in the planted image."""
    slides = ds.datasets.toy(8, n_rows=10, n_cols=12, n_genes=150, depth=1500, seed=SEED)
    copies = {f"{name}_planted": planted(sdata) for name, sdata in slides.items()}
    for sdata in copies.values():
        ds.pp.quality(sdata)
    plan = plan_slides(slides | copies, "patient", ds.encoders.get(None), SlideKeys(), TileConfig(subspots=False))
    bags = plan.embed(device=None, batch_size=None)
    measured = {slide.name: slide for slide in plan.measured}
    found = []
    for held in slides:
        learned = [name for name in slides if name != held]
        genes = choose_genes([measured[name] for name in learned], 150, 0.0)
        used = [measured[name] for name in (*learned, held, f"{held}_planted")]
        whole = training_set(used, bags, targets(used, genes)[0])
        rows = {one.name: whole.rows[whole.slides[whole.rows] == one.name] for one in used}
        fitted = RIDGE().fit(
            whole.bags,
            whole.targets,
            rows=np.concatenate([rows[name] for name in learned]),
            slides=whole.slides,
            patients=whole.patients,
        )
        verdict = copies[f"{held}_planted"]["spots"]["artifact"].astype(str).to_numpy()
        parts = {"truth": whole.targets[rows[held]]}
        for name, key in (("clean", held), ("planted", f"{held}_planted")):
            parts[name] = fitted.predict(whole.bags, rows=rows[key])
        found.append({name: pd.DataFrame(part, columns=genes).sort_index(axis=1) for name, part in parts.items()})
        found[-1]["verdict"] = verdict
    lines = ["| spots | number | r, clean image | r, planted image | difference (95 %) |", "|---|---|---|---|---|"]
    groups = {
        "without artifacts": lambda v: v == "none",
        **{kind: lambda v, kind=kind: v == kind for kind in ARTIFACTS},
        "all with artifacts": lambda v: v != "none",
        "all spots": lambda v: np.ones(len(v), dtype=bool),
    }
    rng = np.random.default_rng(SEED)
    for name, chosen in groups.items():
        clean, marked = (pooled_r(found, chosen, image) for image in ("clean", "planted"))
        drawn = [[found[i] for i in rng.integers(0, len(found), len(found))] for _ in range(500)]
        gains = [pooled_r(some, chosen, "planted") - pooled_r(some, chosen, "clean") for some in drawn]
        low, high = np.nanquantile(gains, [0.025, 0.975])
        number = sum(int(chosen(one["verdict"]).sum()) for one in found)
        lines.append(
            f"| {name} | {number} | {clean:.3f} | {marked:.3f} | {marked - clean:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    return lines


def planted(sdata: SpatialData) -> SpatialData:
    """Return a copy of a toy slide with planted artifacts."""
    copy, (key,) = deepcopy(sdata), sdata.images
    marked, _ = plant(sdata[key].transpose("y", "x", "c").to_numpy(), microns_per_pixel(sdata, key))
    copy.images[key] = parsed(marked, transformations=dict(get_transformation(sdata[key], get_all=True)))
    return copy


def pooled_r(found: list[dict], chosen: Callable[[np.ndarray], np.ndarray], image: str) -> float:
    """Mean over genes of r over some spots of all patients, each centered on the mean of all its spots."""
    parts = []
    for one in found:
        rows = chosen(one["verdict"])
        parts.append([(one[name] - one[name].mean()).to_numpy()[rows] for name in (image, "truth")])
    predicted, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    return float(np.nan_to_num(pearson(predicted, truth)).mean()) if len(truth) > 2 else np.nan


TOY_COHORT = {"n_rows": 6, "n_cols": 8, "n_genes": 150, "depth": 1500, "seed": SEED}
TOP = {"toy": (25, 50, 100, 150), "sections": (50, 100, 150, 200)}


def stains() -> list[str]:
    """Nested cross-validation of ridge with and without normalization; null models are those of the first row."""
    cohorts: dict[str, tuple[dict[str, SpatialData], dict]] = {
        "toy, stains of 12 laboratories": (
            ds.datasets.toy(12, stain_shift=1.0, batch_effect=0.5, **TOY_COHORT),
            {"genes": 150, "top": TOP["toy"]},
        ),
        "toy, stains alike": (
            ds.datasets.toy(12, stain_shift=0.1, batch_effect=0.5, **TOY_COHORT),
            {"genes": 150, "top": TOP["toy"]},
        ),
        "sections of patients B and C": (
            {name: ds.datasets.her2st(name) for name in ("B4", "C2", "C3", "C4", "C5")},
            {"genes": 200, "min_detected": 0.3, "top": TOP["sections"]},
        ),
    }
    lines = [
        "| cohort | stains | mean r | difference (95 %) | better on | least r of a patient |",
        "|---|---|---|---|---|---|",
    ]
    for name, (slides, options) in cohorts.items():
        variants = {"as they are": (slides, None), "Macenko (`stain`)": (slides, "macenko")}
        if name.startswith("toy, stains of"):
            for method in ("macenko", "reinhard"):
                variants[f"squidpy, {method.capitalize()}, to the first slide"] = (
                    by_squidpy_stains(slides, method),
                    None,
                )
        known, nulls = None, None
        for variant, (of, stain) in variants.items():
            tiles = {"subspots": False, "stain": stain}
            cv = ds.models.cross_validate(
                of, patient_key="patient", models={"ridge": RIDGE}, tiles=tiles, seed=SEED, **options
            )
            areas = cv.areas()
            r = areas.loc["ridge"]
            gain = "" if known is None else difference(r - known)
            better = "" if known is None else f"{(r > known).sum()} of {len(r)}"
            known = r if known is None else known
            nulls = areas.drop(index="ridge") if nulls is None else nulls
            lines.append(f"| {name} | {variant} | {r.mean():.3f} | {gain} | {better} | {r.min():.3f} |")
            print(lines[-1], flush=True)
        for null, values in nulls.iterrows():
            lines.append(
                f"| {name} | *{null}* | {values.mean():.3f} | {difference(values - known)} |  | {values.min():.3f} |"
            )
    return lines


def difference(gain: pd.Series) -> str:
    """Mean difference over patients, with an interval (Student's t) from three patients on."""
    if len(gain) < 3:
        return f"{gain.mean():+.3f}"
    half = t.ppf(0.975, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
    return f"{gain.mean():+.3f} ({gain.mean() - half:+.3f} to {gain.mean() + half:+.3f})"


def by_squidpy_stains(slides: dict[str, SpatialData], method: str) -> dict[str, SpatialData]:
    """Normalize the images of slides to the first with squidpy, on pixels that are not glass.

    Its own `detect_tissue` finds none on the toy slides, which are full of tissue.
    """
    normalized, reference = {}, None
    for name, sdata in slides.items():
        copy, (key,) = deepcopy(sdata), sdata.images
        transformations = dict(get_transformation(sdata[key], get_all=True))
        tissue = (sdata[key].transpose("y", "x", "c").to_numpy() < 225).any(axis=2).astype(np.int32)
        copy.labels[f"{key}_tissue"] = Labels2DModel.parse(tissue, dims=("y", "x"), transformations=transformations)
        if reference is None:
            reference = sq.experimental.im.fit_stain_reference(copy, key, method=method)
        image = sq.experimental.im.normalize_stains(copy, key, reference, inplace=False)
        del copy.labels[f"{key}_tissue"]
        copy.images[key] = parsed(image.transpose("y", "x", "c").to_numpy(), transformations=transformations)
        normalized[name] = copy
    return normalized


def cost() -> list[str]:
    """CPU seconds on a section, so that other work on the machine does not count."""
    sdata = ds.datasets.her2st("C3")
    image, mpp = pixels(sdata)
    area = image.shape[0] * image.shape[1] * mpp**2 / 1e6
    lines = ["| call | CPU seconds |", "|---|---|"]
    calls = {
        f"deepspot, squares of 50 µm, {area:.0f} mm²": lambda: quality_map([parsed(image)], mpp, "The image"),
        "squidpy `qc_image`, tiles of 50 µm": lambda: by_squidpy(image, mpp),
    }
    for name, call in calls.items():
        start = time.process_time()
        call()
        lines.append(f"| {name} | {time.process_time() - start:.0f} |")
    return lines


PARTS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "detection": ("Planted artifacts found, by squares of 50 µm", detection),
    "cost": ("Time", cost),
    "accuracy": ("Agreement of predictions where the image is bad", accuracy),
    "stains": ("Stain normalization: tuned ridge on spot and neighbors, each patient left out in turn", stains),
}


def main(names: list[str]) -> None:
    """Measure some parts, and keep the others of the results."""
    ds.settings.progress = False
    mpl.use("Agg")
    warnings.simplefilter("ignore")
    path = OUT.with_suffix(".md")
    for name in names or PARTS:
        title, measure = PARTS[name]
        lines = measure()
        kept = dict(part.split("\n", 1) for part in path.read_text().split("### ")[1:]) if path.exists() else {}
        kept = {key: f"{text.rstrip()}\n\n" for key, text in kept.items()}
        kept[title] = "\n".join(["", *lines, "", ""])
        text = "".join(f"### {title}\n{kept[title]}" for title, _ in PARTS.values() if title in kept)
        path.write_text(text.rstrip() + "\n")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
