"""Whether tests for marker genes keep their promise where neighboring spots resemble one another.

    DEEPSPOT_DATA=../shared/data python benchmarks/markers.py

Regions are drawn at random, so that no gene has anything to do with them: 5 % of the genes may have p < 0.05. Genes are
random fields with as much noise as pattern, of a given range in units of the distance between spots; or the 500 genes
of a real section with the highest mean, measured and as predicted by the embedded model. Regions cover 35 % of the
spots, in patches or at one side. Tests: scanpy's rank-sum test (`p`), the blocks of eigenvectors of `ds.tl.markers`
(`p_block`), and blocks of spots, 3 or 6 spots wide, which change the sign of what they add to the difference of mean
ranks. For power, 30 of 200 genes are raised within the region by as much as a field varies: how many are found at an
adjusted p < 0.05, and how many of those that are found are wrong. Writes benchmarks/results/markers.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from _sections import load
from anndata import AnnData
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control, rankdata
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import deepspot as ds
from deepspot.datasets._toy.tissue import hex_array

N_GENES, N_MARKERS, N_REPEATS, N_PERMUTATIONS = 200, 30, 20, 999
RANGES, SHARE, WIDTHS = (0, 1, 2, 3, 5), 0.35, (3, 6)
SECTION, N_REAL_GENES, N_REAL_REPEATS = "C5", 500, 50
TESTS = ["rank-sum", *[f"blocks of spots, {width} wide" for width in WIDTHS], "blocks of eigenvectors"]
OUT = Path(__file__).parent / "results" / "markers.md"

Draw = Callable[[np.random.Generator], np.ndarray]


def main() -> None:
    ds.settings.progress = False
    array, big = (hex_array(side, side)[2] / 100 for side in (20, 50))
    chance, power = [], []
    for reach in RANGES:
        genes = f"range {reach}" if reach else "noise"
        for kind in ("patches", "one side"):
            label = [genes, f"{len(array):,}", kind]
            chance.append(row(label, level(array, smooth(array, reach, N_GENES), kind, N_REPEATS)))
            power.append(row(label, found(array, smooth(array, reach, N_GENES), kind)))
            print(chance[-1], power[-1], sep="\n", flush=True)
    for kind in ("patches", "one side"):
        label = ["range 3", f"{len(big):,}", kind]
        chance.append(row(label, level(big, smooth(big, 3, N_GENES), kind, N_REPEATS // 2)))
        for name, (values, centers) in real().items():
            label = [name, f"{len(values):,}", kind]
            chance.append(row(label, level(centers, lambda rng, X=values: X, kind, N_REAL_REPEATS)))
    print(*chance[-6:], sep="\n")
    titles = [f"| genes | spots | regions | {' | '.join(TESTS)} |", "|" + "---|" * (3 + len(TESTS))]
    lines = ["Share of the genes with p < 0.05, where it ought to be 5 %:", "", *titles, *chance, ""]
    lines += [
        "Share of the planted markers that are found / share of what is found that is wrong:",
        "",
        *titles,
        *power,
    ]
    OUT.write_text("\n".join(lines) + "\n")


def row(label: list[str], cells: list[str]) -> str:
    return "| " + " | ".join([*label, *cells]) + " |"


def level(centers: np.ndarray, genes: Draw, kind: str, n_repeats: int) -> list[str]:
    shares = []
    for repeat in range(n_repeats):
        rng = np.random.default_rng(repeat)
        region = regions(centers, kind, rng)
        p = p_values(centers, genes(rng), region, rng)
        shares.append([(p[test] < 0.05).mean() for test in TESTS])
    return [f"{share:.1%}" for share in np.mean(shares, axis=0)]


def found(centers: np.ndarray, genes: Draw, kind: str) -> list[str]:
    hits = []
    for repeat in range(N_REPEATS):
        rng = np.random.default_rng(repeat)
        region = regions(centers, kind, rng)
        values = genes(rng)
        values[:, :N_MARKERS] += region[:, None]
        p = p_values(centers, values, region, rng)
        called = np.array([false_discovery_control(p[test]) < 0.05 for test in TESTS])
        wrong = called[:, N_MARKERS:].sum(axis=1) / np.maximum(called.sum(axis=1), 1)
        hits.append(np.stack([called[:, :N_MARKERS].mean(axis=1), wrong]))
    return [f"{share:.0%} / {wrong:.0%}" for share, wrong in np.mean(hits, axis=0).T]


def smooth(centers: np.ndarray, reach: float, n: int) -> Draw:
    """Fields of variance 1, half of it noise: one half is Gaussian, the other one exponential, which is rough."""
    distance = cdist(centers, centers)
    kernels = [np.exp(-(distance**2) / (2 * reach**2)), np.exp(-distance / reach)] if reach else []
    roots = [np.linalg.cholesky(kernel + 1e-6 * np.eye(len(centers))) for kernel in kernels]

    def draw(rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((len(centers), n))
        if not roots:
            return noise
        pattern = np.empty_like(noise)
        for start, root in enumerate(roots):
            pattern[:, start::2] = root @ rng.standard_normal((len(centers), len(range(start, n, 2))))
        return np.sqrt(0.5) * (pattern + noise)

    return draw


def regions(centers: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Spots within a region: the highest part of a smooth field, with a slope across the tissue for one side."""
    reach = 3 * np.median(np.sort(cdist(centers, centers), axis=1)[:, 1])
    kernel = np.exp(-(cdist(centers, centers) ** 2) / (2 * reach**2))
    field = np.linalg.cholesky(kernel + 1e-6 * np.eye(len(centers))) @ rng.standard_normal(len(centers))
    if kind == "one side":
        angle = rng.uniform(0, 2 * np.pi)
        slope = centers @ [np.cos(angle), np.sin(angle)]
        field = field / 2 + slope / (reach / 3)
    return field > np.quantile(field, 1 - SHARE)


def p_values(
    centers: np.ndarray, values: np.ndarray, region: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    sdata = as_sdata(centers, values, region)
    ds.tl.markers(
        sdata,
        "region",
        table_key="genes",
        groups=["in"],
        test="blocks",
        n_permutations=N_PERMUTATIONS,
        seed=int(rng.integers(2**31)),
    )
    frame = sdata.tables["genes"].uns["markers"].set_index("gene").loc[sdata.tables["genes"].var_names]
    spots = {f"blocks of spots, {width} wide": flipped(centers, values, region, width, rng) for width in WIDTHS}
    return {"rank-sum": frame["p"].to_numpy(), **spots, "blocks of eigenvectors": frame["p_block"].to_numpy()}


def as_sdata(centers: np.ndarray, values: np.ndarray, region: np.ndarray) -> SpatialData:
    obs = pd.DataFrame({"shapes": pd.Categorical(["spots"] * len(values)), "spot": range(len(values))})
    obs["region"] = np.where(region, "in", "out")
    obs.index = obs.index.astype(str)
    table = AnnData(values - values.min(axis=0), obs=obs, uns={"log1p": {}})
    table = TableModel.parse(table, region="spots", region_key="shapes", instance_key="spot")
    return SpatialData(shapes={"spots": ShapesModel.parse(centers, geometry=0, radius=1)}, tables={"genes": table})


def flipped(
    centers: np.ndarray, values: np.ndarray, region: np.ndarray, width: int, rng: np.random.Generator
) -> np.ndarray:
    ranks = rankdata(values, axis=0)
    adds = (region - region.mean())[:, None] * (ranks - ranks.mean(axis=0))
    pitch = np.median(np.sort(cdist(centers, centers), axis=1)[:, 1])
    cells = np.floor((centers - centers.min(axis=0)) / (width * pitch)).astype(int)
    block = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
    sums = np.zeros((block.max() + 1, adds.shape[1]))
    np.add.at(sums, block, adds)
    drawn = rng.choice([-1.0, 1.0], size=(N_PERMUTATIONS, len(sums))) @ sums
    return (1 + (np.abs(drawn) >= np.abs(sums.sum(axis=0))).sum(axis=0)) / (N_PERMUTATIONS + 1)


def real() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    sdata = load([SECTION])[SECTION]
    ds.tl.predict(sdata)
    measured, predicted = sdata.tables["table"].copy(), sdata.tables["deepspot_spots"]
    sc.pp.normalize_total(measured, target_sum=1e4)
    sc.pp.log1p(measured)
    tables = {f"{SECTION}, measured": measured, f"{SECTION}, predicted": predicted}
    return {name: (most_expressed(table), np.asarray(table.obsm["spatial"])) for name, table in tables.items()}


def most_expressed(table: AnnData) -> np.ndarray:
    X = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    return X[:, np.argsort(-X.mean(axis=0))[:N_REAL_GENES]].astype(float)


if __name__ == "__main__":
    main()
