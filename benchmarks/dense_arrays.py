"""Neighbors of a prediction on arrays that are denser or coarser than the training, by the nearest spots and by rule.

    DEEPSPOT_DATA=../shared/data python benchmarks/dense_arrays.py

A model of C2-C4 predicts C5, a near-replicate. Only the choice of neighbors differs, not model and spots. Denser
arrays:
the spots of the section get a square array of 100, 50 or 8 µm around them, or cells at random, 12 µm apart, and the
original spots are predicted. Coarser arrays: every second or fourth spot is left. Nearest is the rule of before, the
nearest eight spots within 301 µm; trained is the rule of now. r is the mean over genes with the measured counts of
these spots, and the difference is that to the neighbors in the whole original array. Writes
benchmarks/results/dense_arrays.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _sections import load
from correction import learn, logged
from spatialdata import SpatialData

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.tables import array_positions
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import NeighborFinder, select_columns
from deepspot._spatial.transforms import Placement
from deepspot._stats.metrics import pearson

SECTIONS, SEED = ["C2", "C3", "C4", "C5"], 0
PITCHES, CELL_UM, COARSER = (100, 50, 8), 12, (2, 4)
OUT = Path(__file__).parent / "results" / "dense_arrays.md"


def main() -> None:
    ds.settings.progress = False
    slides = load(SECTIONS)
    model = learn(slides, without="C5")
    lines = [__doc__.split("\n\n")[2].replace("\n", " ").partition(" Writes")[0], "", *section(slides["C5"], model), ""]
    OUT.write_text("\n".join(lines))


def section(sdata: SpatialData, model: ds.models.DeepSpot) -> list[str]:
    view, rule = SlideView.select(sdata), model.geometry.neighbors
    features = model.features_of(view)
    table = sdata.tables[features.plan().key]
    spot, subspots = np.asarray(table.X, dtype=np.float32), table.obsm["subspots"]
    counts = sdata.tables["table"]
    genes = [gene for gene in model.card.genes if gene in counts.var_names]
    truth = logged(counts.X.toarray())[:, counts.var_names.get_indexer(genes)]
    shared = [model.card.genes.index(gene) for gene in genes]
    there = np.isfinite(truth).all(axis=1)
    plain = NeighborRule(reach=rule.reach, cap=rule.cap)

    def predicted(rows: np.ndarray, centers: np.ndarray, chosen: NeighborRule) -> tuple[np.ndarray, np.ndarray]:
        """Expression of the first spots, which are those of `rows`, in an array, and distances to their neighbors."""
        own = np.arange(len(rows))
        near = NeighborFinder(centers, chosen).of(own)
        more = np.setdiff1d(near.indices, own)
        parts = [subspots[rows], np.zeros((len(more), *subspots.shape[1:]), subspots.dtype)]
        neighbors = select_columns(near, np.concatenate([own, more]))
        neighbors.resize(len(own) + len(more), len(own) + len(more))
        tiles = np.concatenate([spot[rows], spot_tiles(features, centers[more])])
        source, target = near.nonzero()
        expression = model.predict(Bags(tiles, np.concatenate(parts), neighbors), rows=own)
        return expression[:, shared], np.linalg.norm(centers[source] - centers[target], axis=1)

    def r(rows: np.ndarray, expression: np.ndarray) -> float:
        kept = there[rows]
        return float(np.nan_to_num(pearson(expression[kept], truth[rows][kept])).mean())

    whole, away = predicted(np.arange(len(spot)), view.centers_um, plain)
    same, _ = predicted(np.arange(len(spot)), view.centers_um, rule)
    if not np.array_equal(whole, same):
        raise ValueError("The prediction of the original array has changed.")
    lines = [
        f"{len(spot)} spots, {len(genes):,} genes; neighbors in the original array: "
        f"{len(away) / len(spot):.1f} at {away.mean():.0f} µm.",
        "",
        "| array | spots | neighbors | number | mean distance µm | r | difference | r with the original prediction |",
        "|" + "---|" * 8,
    ]
    for title, rows, centers in arrays(view):
        for what, chosen in {"nearest": plain, "trained": rule}.items():
            expression, away = predicted(rows, centers, chosen)
            agree = np.nan_to_num(pearson(expression, whole[rows])).mean()
            value, before = r(rows, expression), r(rows, whole[rows])
            mean = f"{away.mean():.0f}" if len(away) else ""
            cells = [title, len(rows), what, f"{len(away) / len(rows):.1f}", mean]
            cells += [f"{value:.4f}", f"{value - before:+.4f}", f"{agree:.4f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def arrays(view: SlideView) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Arrays with the rows of the original spots, which come first, and the centers of all spots in µm."""
    spots, every = view.centers_um, np.arange(len(view.centers))
    low, high = spots.min(axis=0) - 50, spots.max(axis=0) + 50
    made = []
    for pitch in PITCHES:
        x, y = (np.arange(low[axis], high[axis], pitch) for axis in (0, 1))
        grid = np.column_stack([axis.ravel() for axis in np.meshgrid(x, y)])
        made.append((f"{pitch} µm", every, with_spots(spots, grid, pitch)))
    n = int(np.prod(high - low) / CELL_UM**2)
    cells = np.random.default_rng(SEED).uniform(low, high, (n, 2))
    made.append((f"cells at random, {1e6 / CELL_UM**2:,.0f} per mm²", every, with_spots(spots, cells, CELL_UM)))
    array = np.round(array_positions(view.sdata, view.shapes_key)).astype(int)
    for left in COARSER:
        kept = array.sum(axis=1) % 2 == 0 if left == 2 else (array % 2 == 0).all(axis=1)
        made.append((f"every {'second' if left == 2 else 'fourth'} spot", every[kept], spots[kept]))
    return made


def with_spots(spots: np.ndarray, others: np.ndarray, pitch: float) -> np.ndarray:
    """The spots, followed by the others on the tissue that do not take their place."""
    from scipy.spatial import cKDTree

    distance = cKDTree(spots).query(others)[0]
    return np.concatenate([spots, others[(distance >= pitch / 2) & (distance <= 145)]])


def spot_tiles(features: SlideFeatures, centers_um: np.ndarray) -> np.ndarray:
    """Embeddings of the spot tiles at other places; neighbors need no sub-spots."""
    import pandas as pd

    view = features.view
    if not len(centers_um):
        return np.empty((0, features.encoder.card.dim), dtype=np.float32)
    places = Placement(centers_um / view.mpp, view.mpp, pd.RangeIndex(len(centers_um)))
    tiles = SlideFeatures(view.of_planned("dense", places), features.encoder, features.geometry, subspots=False)
    return tiles.embed(np.arange(len(centers_um)))[0]


if __name__ == "__main__":
    main()
