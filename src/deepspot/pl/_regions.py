from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, key_in, keys_in
from deepspot._core.logging import count_of
from deepspot._sdata.tables import find_expression_table, known_genes, labels_of, match_rows
from deepspot.errors import InputError
from deepspot.models._training.slides import as_mapping

from ._map.coloring import label_colors
from ._map.panel import FLAT
from ._map.values import describe_values, expression_values, shapes_of, unit_label
from ._style import GRAY, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

MIN_SPOTS = 3
# Fewer pairs cannot reach p < 0.05 in the signed-rank test.
FEWEST_SLIDES = 6
ALL_PAIRS = 4
MAX_POINTS = 400
STARS = {0.001: "***", 0.01: "**", 0.05: "*"}
LONG_NAME = 9
CAVEAT = "Dots are spots. They are not independent samples,\nso the significance is overestimated (rank-sum, Holm)."
OF_SLIDES = "Dots are means of slides, lines are slides.\nSignificance over slides (signed-rank, Holm)."


@checked
def regions(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    gene: str,
    *,
    groupby: str = "annotation",
    groups: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a gene by annotated region of one slide or of several, with the significance of a Wilcoxon test.

    Each region has a violin and a box (median and quartiles), each spot a dot. The p-values are two-sided and adjusted
    for the number of pairs drawn (Holm): ``***`` below 0.001, ``**`` below 0.01, ``*`` below 0.05, "ns" otherwise.

    **The significance is overestimated.** The test assumes that spots are independent samples, but neighboring spots
    resemble each other, predicted ones more so, and all spots are from one patient. Almost any two regions of a slide
    differ "significantly", so use the size of the difference. If :func:`deepspot.tl.markers` was called with
    ``test="blocks"`` for the same groups, the p-values of the block test, which accounts for the similarity of
    neighbors, are written below the figure. Conclusions about patients need several patients.

    **Several slides** are standardized: the mean of each slide over all spots is subtracted, and the result is divided
    by the standard deviation, because levels of a prediction cannot be compared between slides. A dot is then the mean
    of a region of one slide, a line connects the regions of a slide, and violins and boxes are those of all spots. The
    test is the signed-rank test over slides that have both regions, so fewer than 6 slides cannot be significant.
    Slides of one patient are not independent either.

    Parameters
    ----------
    sdata
        Object with genes and regions, see :func:`deepspot.pp.annotate`; or several, as a list or by name. They are not
        changed.
    gene
        Name of the gene.
    groupby
        Column with the regions, in `obs` of the table or of the shapes.
    groups
        Regions to draw, in this order; by default all with at least 3 spots.
    pairs
        Pairs of regions to compare. By default all pairs of up to 4 regions; for more regions, the one with the
        highest median with each of the others. An empty list compares none.
    table_key
        Table with the gene: measured, predicted or corrected. Needed only if there is not exactly one predicted or
        corrected table.
    layer
        Layer of the table. For a measured table, a layer with raw counts, by default `X`; these are drawn as log1p of
        counts per 10,000.
    figsize
        Width and height in inches; by default from the number of regions.
    ax
        Axes to draw into; by default a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If the table, gene, layer, column or a region does not exist.
    ValueError
        If there are several candidates for the table, fewer than two regions remain, a region to compare has fewer
        than 3 spots with the gene, or the gene is constant on one of several slides.

    References
    ----------
    DeepSpot, figure 6G.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=5, n_cols=6)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> table.obs["side"] = ["left" if x < 6 else "right" for x in table.obs["array_col"]]
    >>> ax = ds.pl.regions(sdata, table.var_names[0], groupby="side", table_key="table")
    """
    named = as_mapping(sdata)
    keys = {name: find_expression_table(each, table_key) for name, each in named.items()}
    frames = [_spots(each, keys[name], gene, groupby, layer).assign(slide=name) for name, each in named.items()]
    several = len(named) > 1
    if several:
        frames = [frame.assign(value=_standardized(frame, gene)) for frame in frames]
    order = list(dict.fromkeys(name for frame in frames for name in frame["group"].cat.categories))
    frame = pd.concat([part.astype({"group": object}) for part in frames], ignore_index=True)
    frame["group"] = pd.Categorical(frame["group"], order)
    frame = frame.dropna()
    names = _groups(frame, groups, groupby)
    samples = {name: frame.loc[frame["group"] == name, "value"].to_numpy() for name in names}
    chosen = _pairs(samples, pairs)
    means = frame.pivot_table(index="slide", columns="group", values="value", observed=True, sort=False).reindex(
        columns=names
    )

    first, first_key = next(iter(named.values())), next(iter(keys.values()))
    table = first.tables[first_key]
    ax = one_axes(ax, figsize or (1.6 + 1.05 * len(names), 4.6))
    _draw(ax, samples, label_colors(table, groupby, order), means if several else None)
    _brackets(ax, samples, chosen, _p_over_slides(means, chosen) if several else _p_values(samples, chosen))
    ax.set_ylabel("standard deviations from the mean of the slide" if several else unit_label(first, first_key, layer))
    title = f"{gene} {describe_values(first, first_key, layer)}"
    ax.set_title(f"{title}, {len(named)} slides" if several else title)
    notes = [OF_SLIDES if several else CAVEAT] if chosen else []
    if several and chosen and len(named) < FEWEST_SLIDES:
        notes.append(f"At least {FEWEST_SLIDES} slides are needed for p < 0.05.")
    # Result of the block test for this gene, if `ds.tl.markers` was called with it for the same groups.
    results = None if several else table.uns.get("markers")
    if results is not None and table.uns.get("deepspot_markers", {}).get("groupby") == groupby:
        results = results[(results["gene"].astype(str) == gene) & results["p_block_adj"].notna()]
        p = dict(zip(results["group"].astype(str), results["p_block_adj"], strict=True))
        if p_values := [f"{name} {p[name]:.2g}" for name in names if name in p]:
            notes.append(f"Block test, each against the rest: adjusted p {', '.join(p_values)}")
    ax.set_xlabel("\n".join(notes), fontsize="x-small")
    return ax


def _spots(sdata: SpatialData, table_key: str, gene: str, groupby: str, layer: str | None) -> pd.DataFrame:
    """Return `group` and `value` of the spots of a slide with a value; spots without a region have no group."""
    table = sdata.tables[table_key]
    known_genes(gene, sdata, [table_key])
    labels = labels_of(sdata, table_key, groupby)
    shapes_key = shapes_of(sdata, table_key, None)
    rows, positions = match_rows(table, sdata, shapes_key)
    values = expression_values(sdata, shapes_key, table_key, [gene], layer=layer)[positions, 0]
    frame = pd.DataFrame({"group": labels.iloc[rows].to_numpy(), "value": values}).dropna(subset=["value"])
    frame["group"] = pd.Categorical(frame["group"], labels.cat.categories)
    return frame


def _standardized(frame: pd.DataFrame, gene: str) -> pd.Series:
    std = frame["value"].std(ddof=0)
    if not std > FLAT:
        raise InputError(
            f"{gene!r} is constant on slide {frame['slide'].iloc[0]!r}, so it cannot be standardized. Leave the slide "
            "out."
        )
    return (frame["value"] - frame["value"].mean()) / std


def _p_over_slides(means: pd.DataFrame, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Return p-values of the signed-rank test over slides (rows of `means`) with both regions, adjusted (Holm)."""
    from scipy.stats import wilcoxon
    from statsmodels.stats.multitest import multipletests

    differences = [(means[one] - means[other]).dropna().to_numpy() for one, other in pairs]
    p = [float(wilcoxon(values).pvalue) if np.any(values) else 1.0 for values in differences]
    return multipletests(p, method="holm")[1] if p else np.empty(0)


def _groups(frame: pd.DataFrame, groups: Sequence[str] | None, groupby: str) -> list[str]:
    size = frame["group"].value_counts(sort=False)
    where = f"groups of {groupby!r}"
    names = keys_in(groups if groups is not None else size.index[size >= MIN_SPOTS], size.index, where)
    small = [name for name in names if size[name] < MIN_SPOTS]
    if small or len(names) < 2:
        raise InputError(
            f"A comparison needs at least two regions, each with at least {MIN_SPOTS} spots with the gene; {where}: "
            f"{size.to_dict()}. Choose others with `groups=`, or another `groupby`."
        )
    return names


def _pairs(samples: dict[str, np.ndarray], pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    names = list(samples)
    if pairs is None and len(names) <= ALL_PAIRS:
        return list(combinations(names, 2))
    if pairs is None:
        top = max(names, key=lambda name: float(np.median(samples[name])))
        return [(top, name) for name in names if name != top]
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"`pairs` must be pairs of two different regions, got {pair!r}.")
    return [(key_in(str(a), names, "drawn regions"), key_in(str(b), names, "drawn regions")) for a, b in pairs]


def _p_values(samples: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> np.ndarray:
    """Return p-values of the rank-sum test, adjusted for the number of pairs (Holm)."""
    from scipy.stats import mannwhitneyu
    from statsmodels.stats.multitest import multipletests

    p = []
    for one, other in pairs:
        constant = np.ptp(np.concatenate([samples[one], samples[other]])) == 0
        p.append(1.0 if constant else mannwhitneyu(samples[one], samples[other]).pvalue)
    return multipletests(p, method="holm")[1] if p else np.empty(0)


def _draw(ax: Axes, samples: dict[str, np.ndarray], colors: dict[str, str], means: pd.DataFrame | None) -> None:
    """Draw a violin and a box for each region, with the spots as dots, or with the `means` of slides in rows."""
    places = np.arange(len(samples))
    rng = np.random.default_rng(0)
    for place, (name, values) in zip(places, samples.items(), strict=True):
        if np.ptp(values) > 0:
            violin: Any = ax.violinplot(values, [place], widths=0.85, showextrema=False)
            violin["bodies"][0].set(facecolor=colors[name], alpha=0.25, edgecolor="none")
        shown = values if len(values) <= MAX_POINTS else rng.choice(values, MAX_POINTS, replace=False)
        if means is None:
            jittered = place + rng.uniform(-0.22, 0.22, len(shown))
            ax.scatter(jittered, shown, s=7, color=colors[name], alpha=0.7, linewidths=0)
        else:
            ax.scatter(np.full(len(means), place), means[name], s=26, color=colors[name], edgecolor="white", zorder=5)
    if means is not None:
        ax.plot(places, means.to_numpy(dtype=float).T, color=GRAY, linewidth=0.7, alpha=0.8, zorder=4)
    line = {"color": "black", "linewidth": 1.2}
    style: dict[str, Any] = {"boxprops": line, "medianprops": line, "whiskerprops": line, "capprops": {"linewidth": 0}}
    ax.boxplot(list(samples.values()), positions=places, widths=0.28, showfliers=False, zorder=3, **style)
    labels = [f"{name}\nn = {len(values):,}" for name, values in samples.items()]
    if means is not None:
        labels = [
            f"{name}\nn = {count_of(len(values), 'spot')}\n{count_of(means[name].count(), 'slide')}"
            for name, values in samples.items()
        ]
    rotated: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, labels, **rotated if max(map(len, samples)) > LONG_NAME else {})
    ax.spines[["top", "right"]].set_visible(False)


def _brackets(ax: Axes, samples: dict[str, np.ndarray], pairs: list[tuple[str, str]], p_values: np.ndarray) -> None:
    """Draw brackets with stars, the shortest lowest, so that they do not cross."""
    names = list(samples)
    low, high = (float(end(np.concatenate(list(samples.values())))) for end in (np.min, np.max))
    step = 0.075 * ((high - low) or 1.0)
    tested = zip(pairs, p_values, strict=True)
    spans = [(*sorted(names.index(name) for name in pair), p) for pair, p in tested]
    for level, (left, right, p) in enumerate(sorted(spans, key=lambda span: (span[1] - span[0], span[0])), start=1):
        y = high + level * step
        ax.plot([left, left, right, right], [y - step / 4, y, y, y - step / 4], color="black", linewidth=0.9)
        star = next((mark for limit, mark in STARS.items() if p < limit), "ns")
        # The glyph of an asterisk is at the top of its line.
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": "small"}
        down = (0, 0 if star == "ns" else -4)
        ax.annotate(star, ((left + right) / 2, y), down, textcoords="offset points", **style)
    ax.set_ylim(low - step, high + (len(spans) + 1.5) * step)
