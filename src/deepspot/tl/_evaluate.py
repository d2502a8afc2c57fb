from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import AGREEMENT, GENE_SETS, LEARNED, PREDICTION, SCALE, UNS, checked, key_in, one_key
from deepspot._core.logging import logger
from deepspot._core.validate import check_seed
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.tables import (
    check_shared_genes,
    comparable_scale,
    find_measured_table,
    is_finer,
    kind_of,
    match_rows,
    regions_of,
    tables_annotating,
)
from deepspot._sdata.view import noun_of, noun_of_table
from deepspot._sdata.write import add_columns, add_entries, check_entries
from deepspot._stats.agreement import MEANS, agreement_of_genes, agreement_of_values
from deepspot._stats.ceiling import ceiling, mean_of_ceiling
from deepspot._stats.domains import agreement_of_domains, find_domains
from deepspot._stats.gene_sets import agreement_of_sets
from deepspot._stats.metrics import pearson
from deepspot._stats.oversample import require
from deepspot._stats.patterns import compare_patterns
from deepspot.errors import InputError
from deepspot.models._training.targets import targets
from deepspot.tl._analysis.gene_sets import GeneSets, read_gene_sets
from deepspot.tl._predict.table import learned_from, log_learned

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot._stats.normalize import Scale

COLUMNS = (
    *("pearson", "pearson_beyond_axis", "pearson_depth", "pearson_ceiling", "spearman", "rmse", "mae", "slope"),
    *("ssim", "ssim_of_mean", "lee", "moran_predicted", "moran_measured", "measured_detected"),
)
# What depends on the scale of the prediction.
OF_SCALE = ["rmse", "mae", "slope", "ssim", "ssim_of_mean"]
COVERAGE = "coverage"
INTERVAL = ("lower", "upper")
DOMAINS = ("domain_predicted", "domain_measured")


@checked
def evaluate(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    gene_sets: GeneSets | str | Path | None = None,
    organism: str = "human",
    domains: bool = False,
    seed: int | None = None,
    overwrite: bool = False,
) -> None:
    """Compare predicted and measured expression of each gene over the same spots.

    Spots are matched by instance and genes by name. Measured counts are transformed to the scale of the prediction,
    ``uns["deepspot"]["scale"]``; spots without counts are left out. A training slide overestimates the accuracy of the
    model, and there is a warning if its image or counts are recognized: use slides of other patients, or
    :func:`deepspot.models.cross_validate`.

    Parameters
    ----------
    sdata
        Object with measured and predicted genes, see :func:`deepspot.tl.predict`.
    prediction_key
        Table with the prediction; needed only if there are several.
    table_key
        Table with the measured genes; needed only if there are several.
    shapes_key
        Shapes of the predicted table; needed only if there are several predictions.
    layer
        Layer of the measured table with raw counts, by default `X`.
    gene_sets
        Also compare the scores of gene sets: a dict from names to genes, the path of a GMT file, or the name of an
        Enrichr library, as in :func:`deepspot.tl.enrich`.
    organism
        Organism of the Enrichr library.
    domains
        Also compare tissue domains: clusters of the predicted and of the measured spots. Needs the extra ``leiden``.
    seed
        Seed of the random gene sets, the clusters and the moved domains; by default from the settings.
    overwrite
        Replace results of an earlier call.

    Returns
    -------
    None. Sets columns in `var` of the predicted table, float64, NaN for a gene that was not measured:

    ``pearson``, ``spearman``
        Correlation over spots; NaN if the prediction or the measurement is constant.
    ``pearson_beyond_axis``
        Pearson correlation after the first principal component of the standardized measured genes was regressed out of
        both; NaN where ``pearson`` is. Most genes share one axis, such as cellularity, so a map of it alone gives them
        all a high ``pearson``. This column shows what the prediction knows of the gene itself.
    ``pearson_depth``
        Correlation of the measured gene with the logarithm of all counts of a spot: a baseline without an image. It is
        high on the scale of raw counts, which contain the depth of a spot.
    ``pearson_ceiling``
        Highest correlation that a perfect prediction can have with such noisy counts, estimated from random halves of
        the counts and the Spearman-Brown formula; NaN for a gene whose halves do not agree. Its mean over genes is
        accurate to about 0.03. That of a single gene is accurate to about 0.1, of a shallow gene to 0.2 or more.
    ``rmse``, ``mae``
        Root mean squared and mean absolute error on the log scale. These, ``slope`` and ``ssim`` are NaN if the scale
        of the prediction is unknown.
    ``slope``
        Slope of the regression of measured on predicted values: 1 if differences between spots have the right size,
        below 1 if the prediction exaggerates them, above 1 if it is too smooth. Noise of the counts does not change it.
    ``ssim``
        Structural similarity: local level, contrast and correlation in a Gaussian window around each spot (standard
        deviation of 1.5 distances between spots), which holds only measured spots. The data range is that of the
        measured gene on this slide.
    ``ssim_of_mean``
        ``ssim`` of a prediction without a pattern: the measured mean of the gene in all spots.
    ``lee``
        Lee's L, the correlation after both are averaged over a spot and its neighbors (within 1.5 times the distance
        between spots). It is high only if both form the same spatial pattern, and low if one of them varies without
        a pattern.
    ``moran_predicted``, ``moran_measured``
        Moran's I, the spatial autocorrelation, computed by squidpy over the same neighbors with weights that sum to 1
        for each spot. NaN for a constant gene. It is larger for the prediction if the prediction is smoother than the
        measurement.
    ``measured_detected``
        Fraction of the spots in which the gene was detected. If it is low, no prediction can have a high correlation.
    ``coverage``
        Only for a prediction with intervals: fraction of the measured values inside. The intervals are made for 0.8.

    Also sets ``uns["deepspot"]["agreement"]``, a dictionary:

    ``r``, ``r_beyond_axis``, ``r_depth``
        Means over genes of ``pearson``, ``pearson_beyond_axis`` and ``pearson_depth``.
    ``spearman``, ``rmse``, ``mae``, ``ssim``, ``ssim_of_mean``, ``lee``, ``moran_predicted``, ``moran_measured``
        Means over genes of the columns of the same name.
    ``r_of_ceiling``
        Mean of ``pearson`` divided by the mean of ``pearson_ceiling``, over genes that have both.
    ``gene_agreement``
        Correlation between the predicted and the measured correlations of all pairs of genes.
    ``patterns_predicted``, ``patterns_measured``
        Effective number of spatial patterns of the genes: the participation ratio of their correlation matrix, which is
        1 if all have the same pattern. Noise of the counts makes the measured number too high.
    ``r_all``, ``r_all_means``, ``r_all_pattern``
        Pearson correlation over all pairs of spot and gene, and its two parts, which sum to it: that of the means of
        genes, and that of the spatial pattern. A prediction that knows only which genes are high in every tissue has a
        high ``r_all``, and 0 in ``r_all_pattern``.
    ``r_all_of_means``
        ``r_all`` of the measured gene means without any pattern: what ``r_all`` must exceed.
    ``slope``
        Slope of the measured on the predicted deviations from the gene means, over all pairs.
    ``ari``, ``ari_shifted``, ``ari_p``
        Only with `domains`: adjusted Rand index of predicted and measured domains; its mean over 199 predicted maps
        that are shifted over the slide, mirrored at its edges; and the share of these with at least the same index.

    With `gene_sets`, ``uns["deepspot_gene_sets"]`` is a DataFrame with one row for each set: ``gene_set``, ``n_genes``
    (predicted and measured), ``r`` between the predicted and the measured score, which is the mean of the standardized
    genes, ``r_random``, the mean of 200 random sets of the same size, and ``p``, the share of these with at least the
    same r. With `domains`, ``obs["domain_predicted"]`` and ``obs["domain_measured"]`` are categorical, missing for
    spots that were not measured; the largest domain is 0, and equal numbers do not mean the same tissue.

    ``uns["deepspot"]["evaluated_on"]`` is the name of the measured table. ``uns["deepspot"]["training_slide"]`` becomes
    ``"yes"`` if the counts show that the model learned from this slide.

    Raises
    ------
    KeyError
        If there is no such table, or no prediction at all.
    ValueError
        If there are several candidates, results exist already, or the measured table has no raw counts, fewer than
        half of the predicted genes, or fewer than three spots in common with the prediction; or if no gene set has a
        gene that was predicted and measured.
    ImportError
        If `domains` is True and igraph is not installed.

    References
    ----------
    DeepSpot, section 4.3 (equation 2). Lee, "Developing a bivariate spatial association measure", Journal of
    Geographical Systems 2001. Palla et al., "Squidpy", Nature Methods 2022, for Moran's I. Wang et al., "Image quality
    assessment", IEEE Transactions on Image Processing 2004, for the structural similarity.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=10, network={"width": 16, "members": 1}, training={"epochs": 2})
    >>> ds.tl.predict(sdata, model)
    >>> ds.tl.evaluate(sdata)
    >>> sdata.tables["deepspot_spots"].var["pearson"].shape
    (10,)
    """
    if prediction_key is not None and prediction_key in sdata.tables and is_finer(sdata.tables[prediction_key]):
        raise InputError(
            f"Table {prediction_key!r} predicts {noun_of_table(sdata, prediction_key).many}, finer than spots. Compare "
            f"it with counts: `ds.tl.evaluate_resolution(sdata, prediction_key={prediction_key!r})`."
        )
    prediction_key = one_key(
        prediction_key,
        _predictions(sdata, shapes_key),
        "predictions of spots in sdata.tables",
        "prediction_key",
        "Predict them first: `ds.tl.predict(sdata, model)`. Finer predictions, such as those of cells, are compared "
        "with counts by `ds.tl.evaluate_resolution(sdata)`.",
    )
    prediction = sdata.tables[prediction_key]
    regions = regions_of(sdata, prediction_key)
    shapes_key = one_key(None, regions, f"regions of table {prediction_key!r}", "shapes_key")
    table_key = find_measured_table(sdata, shapes_key, table_key)
    columns = [*COLUMNS, *[COVERAGE] * (set(INTERVAL) <= set(prediction.layers))]
    check_entries(sdata, prediction_key, "var", columns, overwrite=overwrite)
    check_entries(sdata, prediction_key, "uns", [GENE_SETS] * (gene_sets is not None), overwrite=overwrite)
    check_entries(sdata, prediction_key, "obs", DOMAINS * domains, overwrite=overwrite)
    if domains:
        require("leiden")
    seed = check_seed(seed)
    sets = None if gene_sets is None else _sets(gene_sets, organism, prediction, sdata.tables[table_key])
    genes = list(prediction.var_names)
    check_shared_genes(genes, sdata.tables[table_key], table_key)
    truth = measured_counts(sdata, shapes_key, table_key, layer=layer).without_empty()

    rows, at = match_rows(prediction, sdata, shapes_key)
    _, ours, theirs = np.intersect1d(at, truth.rows, return_indices=True)
    if len(ours) < 3:
        raise InputError(
            f"Tables {prediction_key!r} and {table_key!r} share {len(ours)} spots of {shapes_key!r} with counts; at "
            "least 3 are needed. Predict the measured spots."
        )
    learned, scale = learned_from(prediction, truth), comparable_scale(prediction)
    expression, depth = targets([truth], genes, scale)
    _log_limits(prediction, learned, scale, depth)
    chosen = rows[ours]
    predicted, measured = np.asarray(prediction.X[chosen]), expression[0][theirs]
    centers = np.asarray(prediction.obsm["spatial"])[chosen]
    agreement = agreement_of_genes(predicted, measured, centers).set_axis(prediction.var_names)
    _add_limits(agreement, measured, truth, theirs, scale)
    if _scale_of(prediction) != scale.text:
        agreement[OF_SCALE] = np.nan
    if COVERAGE in columns:
        low, high = (np.asarray(prediction.layers[name][chosen]) for name in INTERVAL)
        inside = ((low <= measured) & (measured <= high)).mean(axis=0)
        agreement[COVERAGE] = np.where(np.isfinite(measured).any(axis=0), inside, np.nan)
    means = {
        "r": agreement["pearson"].mean(),
        "r_beyond_axis": agreement["pearson_beyond_axis"].mean(),
        "r_depth": agreement["pearson_depth"].mean(),
        "r_of_ceiling": mean_of_ceiling(agreement["pearson"].to_numpy(), agreement["pearson_ceiling"].to_numpy()),
        **agreement[[*MEANS, *columns[len(COLUMNS) :]]].mean(),
        **compare_patterns(predicted, measured),
        **agreement_of_values(predicted, measured),
    }
    labels = None
    if domains:
        known = np.isfinite(measured).any(axis=0)
        ours_of, theirs_of = (find_domains(values[:, known], seed) for values in (predicted, measured))
        means |= agreement_of_domains(ours_of, theirs_of, centers, seed)
        sides = dict(zip(DOMAINS, (ours_of, theirs_of), strict=True))
        labels = pd.DataFrame(sides, prediction.obs_names[chosen])
    what = (
        f"agreement with {table_key!r} over {noun_of(sdata, shapes_key).count(len(ours))} (mean r {means['r']:.3f} "
        f"over {agreement['pearson'].count():,} genes; beyond their first axis {means['r_beyond_axis']:.3f}; of the "
        f"depth of spots alone {means['r_depth']:.3f})"
    )
    # Results of an earlier call with other options.
    prediction.uns.pop(GENE_SETS, None)
    prediction.obs.drop(columns=list(DOMAINS), errors="ignore", inplace=True)
    if sets is not None:
        entries = {GENE_SETS: agreement_of_sets(predicted, measured, sets, seed)}
        add_entries(sdata, prediction_key, "uns", entries, overwrite=overwrite)
    if labels is not None:
        labels = labels.astype(str).astype("category")
        add_columns(sdata, prediction_key, labels, slot="obs", what="tissue domains", overwrite=overwrite)
    add_columns(sdata, prediction_key, agreement[columns], what=what, overwrite=overwrite)
    prediction.uns[UNS][LEARNED] = learned
    prediction.uns[UNS][AGREEMENT] = {name: float(value) for name, value in means.items()}
    prediction.uns[UNS]["evaluated_on"] = table_key


def _scale_of(prediction: AnnData) -> str:
    return prediction.uns[UNS].get("scale", SCALE)


def _log_limits(prediction: AnnData, learned: str, scale: Scale, depth: str) -> None:
    """Log what the agreement does not show: training slides, other scales, and other genes behind the depth."""
    log_learned(learned)
    if _scale_of(prediction) != scale.text:
        logger.warning(
            "The prediction is on the scale %r and the measurement on %r: the correlations can be compared; errors, "
            "slopes and structural similarity are missing.",
            *(_scale_of(prediction), scale.text),
        )
    trained_depth = prediction.uns[UNS].get("depth", depth)
    if trained_depth != depth:
        logger.warning(
            "The model was trained on counts normalized over %s, the measured counts are normalized over %s: `rmse` "
            "includes this difference, the correlations can be compared.",
            trained_depth,
            depth,
        )


def _add_limits(
    agreement: pd.DataFrame, measured: np.ndarray, truth: MeasuredCounts, rows: np.ndarray, scale: Scale
) -> None:
    """Add r of the depth of spots alone, the ceiling of r and the share of spots with the gene; `rows` of `truth`."""
    known = np.isfinite(measured).any(axis=0)
    shared = agreement.index[known]
    depth = truth.depth()[rows]
    agreement["pearson_depth"] = pearson(np.repeat(np.log(depth)[:, None], len(agreement), axis=1), measured)
    counts = truth.counts[rows][:, truth.genes.get_indexer(shared)]
    agreement.loc[shared, "pearson_ceiling"] = ceiling(counts, depth, scale=scale)
    agreement["measured_detected"] = np.where(known, (measured > 0).mean(axis=0), np.nan)


def _sets(
    gene_sets: GeneSets | str | Path, organism: str, prediction: AnnData, measured: AnnData
) -> dict[str, list[int]]:
    """Return the columns of the prediction of each gene set with a gene in both tables."""
    named, source = read_gene_sets(gene_sets, organism)
    shared = prediction.var_names.intersection(measured.var_names)
    place = dict(zip(prediction.var_names, range(prediction.n_vars), strict=True))
    sets = {name: [place[gene] for gene in dict.fromkeys(genes) if gene in shared] for name, genes in named.items()}
    sets = {name: genes for name, genes in sets.items() if genes}
    if not sets:
        raise InputError(
            f"No gene set ({source}) has a gene that was predicted and measured. These genes are for example "
            f"{list(shared[:3])}, those of the sets {[gene for genes in named.values() for gene in genes][:3]}. Check "
            "the species and the identifiers."
        )
    if len(sets) < len(named):
        logger.info(
            "%d of %d gene sets (%s) have no such gene and are left out.", len(named) - len(sets), len(named), source
        )
    return sets


def _predictions(sdata: SpatialData, shapes_key: str | None) -> list[str]:
    if shapes_key is None:
        names = list(sdata.tables)
    else:
        names = tables_annotating(sdata, key_in(shapes_key, sdata.shapes, "sdata.shapes"))
    predicted = [name for name in names if kind_of(sdata.tables[name]) == PREDICTION]
    # Sub-spots and grids have no measurements.
    return [name for name in predicted if not is_finer(sdata.tables[name])]
