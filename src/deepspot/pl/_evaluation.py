from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import AGREEMENT, GENE_SETS, UNS, checked, one_key
from deepspot._sdata.tables import evaluated_tables
from deepspot.errors import MissingKeyError

from ._map.values import training_note
from ._style import BLUE, COLORS, GRAY, GRID, ORANGE, several_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

PANEL_INCHES = 3.7
# Columns of `ds.tl.evaluate` in the order of the first panel.
ROWS = {
    "Pearson r": "pearson",
    "Spearman r": "spearman",
    "r beyond\nfirst axis": "pearson_beyond_axis",
    "r of depth\nalone": "pearson_depth",
    "ceiling of r": "pearson_ceiling",
    "SSIM": "ssim",
    "SSIM of\nthe mean": "ssim_of_mean",
}
BASELINES = {"pearson_depth", "pearson_ceiling", "ssim_of_mean"}
# Limits of the slope; genes beyond them are drawn at the edge.
SLOPES = (-1.0, 3.0)
MOST_SETS = 10


@checked
def evaluation(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Plot the agreement of a prediction with the measurement of a slide, each measure beside what it is compared with.

    Panels:

    - Distribution over genes of r, Spearman's r, r beyond the first axis and SSIM: box from the first to the third
      quartile with the median, whiskers from the 5 to the 95 % quantile. Gray: what needs no image (the depth of spots,
      the mean of the gene), and the ceiling that the noise of the counts sets.
    - Correlation over all pairs of spot and gene, in its two parts: gene means and spatial pattern. Below is what the
      gene means alone reach.
    - Moran's I of the measured and predicted genes. Above the diagonal, a prediction is smoother than the measurement.
    - Slope of measured on predicted values against r. Below 1, a prediction exaggerates differences between spots;
      above 1, it is too smooth. The diamond is the slope over all genes.
    - Only with gene sets: r of the scores of up to ten sets with the highest r, beside the mean r of random sets of
      the same size.

    Parameters
    ----------
    sdata
        Object with results of :func:`deepspot.tl.evaluate`. It is not changed.
    prediction_key
        Table with the prediction; needed only if several were evaluated.
    figsize
        Width and height in inches; by default 3.7 inches per panel.
    ax
        Axes to draw into, four, or five with gene sets; by default a new figure.

    Returns
    -------
    The axes of the panels.

    Raises
    ------
    KeyError
        If no prediction was evaluated.
    ValueError
        If several were evaluated, or `ax` does not hold one axes for each panel.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=10, network={"width": 16, "members": 1}, training={"epochs": 2})
    >>> ds.tl.predict(sdata, model)
    >>> ds.tl.evaluate(sdata)
    >>> len(ds.pl.evaluation(sdata))
    4
    """
    import matplotlib.pyplot as plt

    evaluated = evaluated_tables(sdata)
    if not evaluated:
        raise MissingKeyError("No prediction was evaluated. Call `ds.tl.evaluate(sdata)` first.")
    key = one_key(prediction_key, evaluated, "evaluated predictions in sdata.tables", "prediction_key")
    table = sdata.tables[key]
    means, sets = table.uns[UNS][AGREEMENT], table.uns.get(GENE_SETS)
    n = 4 if sets is None else 5
    if ax is None:
        columns = 2 if n == 4 else 3
        size = figsize or (PANEL_INCHES * columns * 1.1, PANEL_INCHES * 2 * 1.12)
        figure, grid = plt.subplots(2, columns, figsize=size, layout="constrained")
        figure.suptitle(_title(table.var, means) + training_note(sdata, key), fontsize="large")
        ax = list(grid.flat)[:n]
        for unused in grid.flat[n:]:
            unused.set_axis_off()
    axes = several_axes(ax, n, "panels")
    _genes(axes[0], table.var)
    _parts(axes[1], means)
    _moran(axes[2], table.var)
    _slopes(axes[3], table.var, means)
    if sets is not None:
        _sets(axes[4], sets)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_axisbelow(True)
    return axes


def _title(var: pd.DataFrame, means: dict[str, float]) -> str:
    title = f"Agreement of {var['rmse'].count():,} genes with the measurement"
    if "ari" in means:
        title += (
            f"; domains: adjusted Rand index {means['ari']:.2f} (shifted maps {means['ari_shifted']:.2f}, "
            f"p = {means['ari_p']:.2g})"
        )
    return title


def _genes(ax: Axes, var: pd.DataFrame) -> None:
    values = {name: var[column].dropna().to_numpy() for name, column in ROWS.items()}
    for place, (name, column) in enumerate(ROWS.items()):
        if not len(values[name]):
            ax.text(0, place, "unknown", va="center", ha="center", color=GRAY, fontsize="small")
            continue
        color = GRAY if column in BASELINES else BLUE
        low, first, median, third, high = np.quantile(values[name], (0.05, 0.25, 0.5, 0.75, 0.95))
        ax.hlines(place, low, high, color=color, linewidth=1.2)
        ax.barh(place, third - first, left=first, height=0.6, facecolor="white", zorder=2)
        ax.barh(place, third - first, left=first, height=0.6, facecolor=color, alpha=0.35, edgecolor=color, zorder=2)
        ax.vlines(median, place - 0.3, place + 0.3, color="black", linewidth=1.6, zorder=3)
    ax.set_yticks(range(len(ROWS)), list(ROWS))
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set(xlabel="value over genes (gray: for comparison)", title="Genes")


def _parts(ax: Axes, means: dict[str, float]) -> None:
    """Draw r over all values in its parts, and that of the gene means alone."""
    pattern, of_means = means["r_all_pattern"], means["r_all_of_means"]
    ax.barh(0, means["r_all_means"], color=GRAY, height=0.55, label="gene means")
    ax.barh(0, pattern, left=means["r_all_means"], color=ORANGE, height=0.55, label="spatial pattern")
    ax.barh(1, of_means, color=GRAY, height=0.55, alpha=0.5)
    for place, value, note in ((0, means["r_all"], f"\n(pattern {pattern:.2f})"), (1, of_means, "")):
        ax.annotate(f"{value:.2f}{note}", (max(value, 0), place), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks([0, 1], ["prediction", "gene means\nof this slide,\nno pattern"])
    ax.set(xlabel="r over all pairs of spot and gene", title="Gene means and pattern", ylim=(2.1, -0.6))
    low = min(0.0, means["r_all_means"], pattern)
    ax.set_xlim(1.1 * low if np.isfinite(low) else 0, 1.35)
    ax.set_xticks(np.arange(0, 1.01, 0.25))
    ax.axvline(0, color="black", linewidth=0.8)
    ax.legend(frameon=False, loc="lower left", fontsize="small")


def _moran(ax: Axes, var: pd.DataFrame) -> None:
    ax.scatter(var["moran_measured"], var["moran_predicted"], s=6, color=BLUE, alpha=0.5, linewidths=0)
    known = var[["moran_measured", "moran_predicted"]].dropna().to_numpy()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    ends = (min(low, 0) - 0.05, max(high, 0.5) + 0.05)
    ax.plot(ends, ends, color="black", linewidth=0.8, zorder=0)
    ax.set(xlim=ends, ylim=ends, box_aspect=1, title="Smoothness (Moran's I)", xlabel="measured", ylabel="predicted")


def _slopes(ax: Axes, var: pd.DataFrame, means: dict[str, float]) -> None:
    known = var[["pearson", "slope"]].dropna()
    r, slope = known["pearson"].to_numpy(), known["slope"].to_numpy()
    beyond = (slope < SLOPES[0]) | (slope > SLOPES[1])
    ax.scatter(r[~beyond], slope[~beyond], s=6, color=BLUE, alpha=0.5, linewidths=0)
    ax.scatter(r[beyond], np.clip(slope[beyond], *SLOPES), s=14, color=BLUE, alpha=0.6, marker="x", linewidths=0.8)
    ax.axhline(1, color="black", linewidth=0.8, zorder=0)
    if np.isfinite(means["slope"]):
        ax.scatter(
            means["r"], np.clip(means["slope"], *SLOPES), s=55, marker="D", color=ORANGE, edgecolor="white", zorder=4
        )
        ax.annotate(
            f"all genes: {means['slope']:.2f}",
            (0.98, 0.02),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            color=ORANGE,
        )
    title = "Calibration" if not beyond.any() else f"Calibration ({beyond.sum():,} genes beyond: ×)"
    ax.set(ylim=(SLOPES[0] - 0.15, SLOPES[1] + 0.15), title=title, xlabel="Pearson r")
    ax.set_ylabel("slope of measured on predicted\n< 1: exaggerated, > 1: too smooth")


def _sets(ax: Axes, sets: pd.DataFrame) -> None:
    shown = sets.dropna(subset=["r"]).sort_values("r", ascending=False)[:MOST_SETS]
    places = np.arange(len(shown))
    ax.hlines(places, shown["r_random"], shown["r"], color=GRID, linewidth=2, zorder=1)
    ax.scatter(shown["r_random"], places, s=30, marker="|", color=GRAY, linewidths=2, label="random sets")
    above = shown["p"].to_numpy() < 0.05
    for chosen, color, label in ((above, BLUE, "p < 0.05, not adjusted"), (~above, COLORS[5], "p ≥ 0.05")):
        if chosen.any():
            ax.scatter(shown["r"][chosen], places[chosen], s=28, color=color, label=label, zorder=3)
    names = [
        f"{name.replace('HALLMARK_', '')[:26]} ({n})"
        for name, n in zip(shown["gene_set"], shown["n_genes"], strict=True)
    ]
    ax.set_yticks(places, names, fontsize="small")
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    ax.set(xlabel="r of scores", title=f"Gene sets ({len(shown)} of {len(sets)}, highest r)")
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.2, -0.17), ncols=3)
