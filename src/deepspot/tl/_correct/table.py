"""Construction of a table of corrected genes from measured counts and a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import CORRECTED, UNS
from deepspot._core.logging import logger
from deepspot._sdata.tables import comparable_scale, known_genes, match_rows
from deepspot._sdata.write import check_memory, make_table
from deepspot._stats.gamma_poisson import level_shift, posterior
from deepspot.errors import InputError
from deepspot.models._training.targets import ALL_GENES, NOT_NORMALIZED

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot._sdata.measured import MeasuredCounts
    from deepspot._sdata.view import SlideView
    from deepspot._stats.normalize import Scale


N_LAYERS = 6


def genes_to_keep(
    view: SlideView, measured: MeasuredCounts, genes: Sequence[str] | None, in_model: Sequence[str], *, replace: bool
) -> pd.Index:
    """Return the genes of the corrected table: by default all; if they are replaced, those of the model."""
    kept = measured.genes
    if genes is not None:
        kept = pd.Index(known_genes(genes, view.sdata, [measured.table_key]))
    if replace:
        kept = kept[kept.isin(list(in_model))]
    if len(kept) == 0:
        raise InputError("The model predicts none of the `genes`, so they cannot be replaced.")
    check_memory(
        len(measured.rows) * len(kept) * N_LAYERS * np.dtype(np.float32).itemsize,
        f"The correction of {len(measured.rows):,} spots × {len(kept):,} genes",
        "Raise the limit, or name the genes to keep with `genes=`.",
    )
    return kept


SOURCES = ("counts and prediction", "prediction: no counts", "prediction: misplaced", "prediction: method")


def corrected_table(
    view: SlideView,
    measured: MeasuredCounts,
    prediction: AnnData,
    genes: pd.Index,
    spread: pd.DataFrame | None,
    misplaced: pd.Index,
) -> AnnData:
    """Build the table of :func:`deepspot.tl.correct`; without dispersions, the prediction replaces the measurement.

    The counts of `misplaced` spots, names in the index of the shapes, are not used.
    """
    table_rows, shape_rows = match_rows(prediction, view.sdata, view.shapes_key)
    _, rows, found = np.intersect1d(measured.rows, shape_rows, return_indices=True)
    if len(rows) < len(measured.rows):
        logger.warning("%d measured spots have no prediction and are left out.", len(measured.rows) - len(rows))
    predicted_rows = table_rows[found]
    if spread is None:  # otherwise the level shift corrects it
        _warn_of_depth(prediction)

    depth = measured.depth()[rows].astype(float)
    scale = comparable_scale(prediction)
    exposure = scale.exposure(depth)
    wrong = np.isin(view.index[measured.rows[rows]], misplaced)
    shared = prediction.var_names[prediction.var_names.isin(measured.genes)]
    expression = np.asarray(prediction.X[predicted_rows])[:, prediction.var_names.get_indexer(shared)]
    used = np.where(wrong, 0, 1)
    trusted = _counts_of(measured, shared)[rows] * used[:, None]
    combined, facts = _combine(trusted, exposure * used, expression, shared, spread, scale)
    counts = _counts_of(measured, genes)[rows]
    rate = np.divide(
        counts, exposure[:, None], out=np.zeros(counts.shape, dtype=np.float32), where=exposure[:, None] > 0
    )
    layers = {"measured": np.log1p(rate), "predicted": np.full_like(rate, np.nan), "weight": np.ones_like(rate)}
    layers["rate"] = rate
    layers["corrected"] = layers["measured"].copy()
    layers["weight"][wrong] = 0
    layers["corrected"][wrong] = np.nan
    layers["rate"][wrong] = np.nan
    into = np.flatnonzero(genes.isin(shared))
    columns = shared.get_indexer(genes[into])
    for name, values in combined.items():
        layers[name][:, into] = values[:, columns]
    layers["change"] = layers["corrected"] - layers["measured"]

    region_key, instance_key = view.link_keys
    table = view.sdata.tables[measured.table_key]
    obs = table.obs.iloc[measured.table_rows[rows]].assign(depth=depth.astype(np.float32))
    source = np.full(len(rows), 3) if spread is None else np.select([wrong, depth == 0], [2, 1], 0)
    obs["source"] = pd.Categorical.from_codes(source, SOURCES)
    for name, column in prediction.obs.filter(items=["ood_score", "ood"]).items():
        obs[str(name)] = column.to_numpy()[predicted_rows]
    var = table.var.loc[genes].assign(in_model=genes.isin(shared))
    for name, column in [*prediction.var.filter(like="expected_r").items(), *facts.items()]:
        var[str(name)] = column.reindex(genes).to_numpy(dtype=np.float32)
    provenance = {"kind": CORRECTED, "measured": measured.table_key, "layer": measured.layer or "X"}
    return make_table(
        layers["corrected"],
        region=view.shapes_key,
        instances=view.index[measured.rows[rows]],
        region_key=region_key,
        instance_key=instance_key,
        obs=obs,
        var=var,
        layers=layers,
        obsm={"spatial": np.asarray(prediction.obsm["spatial"])[predicted_rows]},
        uns={"log1p": {}, UNS: prediction.uns[UNS] | provenance | {"in_model": len(into)}},
    )


def _counts_of(measured: MeasuredCounts, genes: pd.Index) -> np.ndarray:
    return measured.counts[:, measured.genes.get_indexer(genes)].toarray()


def _combine(
    counts: np.ndarray,
    exposure: np.ndarray,
    expression: np.ndarray,
    genes: pd.Index,
    spread: pd.DataFrame | None,
    scale: Scale,
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return the layers of the genes of the model, and the columns of `var` for them."""
    if spread is None:
        weight, rate = np.zeros_like(expression), np.expm1(expression)
        layers = {"predicted": expression, "corrected": expression, "rate": rate, "weight": weight}
        return layers, pd.DataFrame(index=genes)
    facts = spread.loc[genes, ["dispersion"]]
    expected = np.expm1(expression.astype(float))
    # The ratio of counts to prediction comes from this slide only: the gap between the mean of logarithms and the
    # logarithm of the mean differs between slides, and between the fits of a training.
    shift = level_shift(counts, exposure, expected)
    corrected, rate, weight = posterior(
        counts, exposure, expected * shift, facts["dispersion"].to_numpy(), most=scale.most
    )
    layers = {"predicted": expression, "corrected": corrected, "rate": rate, "weight": weight}
    return layers, facts.assign(level_shift=shift)


def _warn_of_depth(prediction: AnnData) -> None:
    depth = prediction.uns[UNS].get("depth", ALL_GENES)
    if depth not in (ALL_GENES, NOT_NORMALIZED):
        logger.warning(
            "The model was trained on expression relative to %s, but here it is relative to all measured genes: "
            "predicted values are higher, by the share of counts of the other genes.",
            depth,
        )
