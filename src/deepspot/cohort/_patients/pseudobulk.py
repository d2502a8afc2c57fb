from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import PSEUDOBULK, SLIDE, UNS, checked
from deepspot._core.logging import count_of, logger, track
from deepspot._sdata.tables import MIN_SHARED_GENES, find_expression_table, labels_of
from deepspot._stats.log_scale import check_log_scale
from deepspot._stats.normalize import LOG1P_10K, SCALES
from deepspot.errors import InputError
from deepspot.models._training.slides import as_mapping

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

HOW = ("mean", "median")
BLOCK_ROWS, MEDIAN_BYTES = 1024, 32_000_000


@checked
def pseudobulk(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    table_key: str | None = None,
    how: Literal["mean", "median"] = "mean",
    groupby: str | None = None,
) -> AnnData:
    """Average the spots of each slide, or of each region of a slide, to a profile.

    As in the paper, a profile is the mean over spots of expression on the log scale, not the logarithm of a mean.
    Negative values count as 0. Tables with `X` on disk are read block by block.

    If slides differ in their genes, the genes that all slides have are kept, in the order of the first slide.

    Parameters
    ----------
    slides
        One slide, several, or a mapping from names to slides. Without a mapping, slides from :func:`deepspot.io.slide`
        keep their names.
    table_key
        Table with genes on the log scale; by default the table of predicted or corrected genes.
    how
        ``"mean"`` or ``"median"`` over spots. The median is 0 for a gene that is 0 in most spots.
    groupby
        Column of `obs` of the table or of its shapes with regions, such as ``"annotation"`` from
        :func:`deepspot.pp.annotate`: one profile for each region. Spots without a region are left out.

    Returns
    -------
    Profiles (n, genes), float32, one for each slide or region. Their names are those of the slides, or
    ``<slide>: <region>``.

    ``obs``
        `slide`; `region`, if `groupby` is given; `spots`, the number of spots; `ood_share`, the share of
        out-of-distribution spots, NaN if unknown. Join clinical columns with
        ``profiles.obs.join(clinical, on="slide")``.
    ``var``
        That of the first slide, if one model predicted all slides.
    ``uns["deepspot"]``
        `kind` (``"pseudobulk"``), `how`, `scale`, `groupby`, and `model` and `fingerprint` of the prediction.

    Raises
    ------
    KeyError
        If the table or column does not exist.
    ValueError
        If there are several candidates for the table, its values are on different or unknown scales (as far as this can
        be detected), slides were predicted by different models, they share less than half of their genes, or a slide
        has no spot with a region.

    References
    ----------
    DeepSpot, section 4.3.1.

    Examples
    --------
    >>> import deepspot as ds
    >>> import scanpy as sc
    >>> slides = ds.datasets.toy(n_patients=2)
    >>> for sdata in slides.values():
    ...     sc.pp.normalize_total(sdata["table"], target_sum=1e4)
    ...     sc.pp.log1p(sdata["table"])
    >>> ds.cohort.pseudobulk(slides, table_key="table").obs["spots"].to_dict()
    {'P1_S1': 120, 'P2_S1': 120}
    """
    from anndata import AnnData

    if how not in HOW:
        raise InputError(f"`how` must be one of {list(HOW)}, got {how!r}.")
    named = _named(slides)
    keys = {name: find_expression_table(sdata, table_key) for name, sdata in named.items()}
    tables = {name: sdata.tables[keys[name]] for name, sdata in named.items()}
    found = {name: _check_table(table, f"Table {keys[name]!r} of slide {name!r}") for name, table in tables.items()}
    scale = _common_scale(found)
    model = _common_model(tables)
    genes = _shared_genes(tables)
    labels = {} if groupby is None else {name: labels_of(named[name], keys[name], groupby) for name in named}
    for name, regions in labels.items():
        if regions.isna().all():
            raise InputError(
                f"No spot of slide {name!r} has a region in {groupby!r}. Leave the slide out, or label spots."
            )
    X, rows = [], {}
    for name, table in track(tables.items(), "Profiles", total=len(tables), unit="slide"):
        columns = table.var_names.get_indexer(genes)
        for region in labels[name].cat.categories if labels else [None]:
            members = np.ones(table.n_obs, dtype=bool) if region is None else (labels[name] == region).to_numpy()
            X.append(profile(table.X, how, members)[columns])
            row = {"slide": name} if region is None else {"slide": name, "region": region}
            ood_share = float(table.obs["ood"].to_numpy()[members].mean()) if "ood" in table.obs else np.nan
            rows[": ".join(row.values())] = row | {"spots": int(members.sum()), "ood_share": ood_share}
    obs = pd.DataFrame.from_dict(rows, orient="index")
    var = next(iter(tables.values())).var.loc[genes] if model else pd.DataFrame(index=genes)
    uns = {"kind": PSEUDOBULK, "how": how, "scale": scale} | model | ({} if groupby is None else {"groupby": groupby})
    profiles = AnnData(np.stack(X), obs=obs, var=var.copy(), uns={"log1p": {}, UNS: uns})
    logger.info(
        f"Made {count_of(len(obs), 'profile')} of {len(genes):,} genes: the {how} over the spots of "
        f"{count_of(len(tables), 'slide')}."
    )
    return profiles


def profile(X: Any, how: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the mean or median (genes,) float32 over all or some rows (n,) bool of a numpy, sparse or dask array.

    Negative values count as 0. A gene with a missing value in any of the rows is NaN. Each block is read once.
    """
    import dask.array as da

    if not hasattr(X, "dask"):
        X = da.from_array(X, chunks=(BLOCK_ROWS, -1), name=False, asarray=False)
    X = X.map_blocks(_nonnegative, meta=np.empty((0, 0), X.dtype))
    X = X if rows is None else X[rows]
    if how == "mean":
        values = X.mean(axis=0, dtype=np.float64)
    else:
        values = da.median(X.rechunk((-1, "auto"), block_size_limit=MEDIAN_BYTES), axis=0)
    # In a task of a Dask worker, the default scheduler would distribute the blocks over the cluster.
    return values.compute(scheduler="synchronous").astype(np.float32)


def _nonnegative(block: Any) -> np.ndarray:
    return np.maximum(block.toarray() if issparse(block) else np.asarray(block), 0)


def _named(slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]) -> dict[str, SpatialData]:
    """Name the slides, by the names in their `attrs` if these are unique."""
    named = as_mapping(slides)
    if not isinstance(slides, Mapping):
        names = [sdata.attrs.get(SLIDE, {}).get("name") for sdata in named.values()]
        if all(names) and len(set(names)) == len(names):
            return dict(zip(map(str, names), named.values(), strict=True))
    return named


def _check_table(table: AnnData, where: str) -> str:
    """Return the scale of a table; raise unless it has spots, unique genes, and expression on a known log scale."""
    if table.X is None or not table.n_obs:
        raise InputError(f"{where} is empty, so there is nothing to average.")
    if not table.var_names.is_unique:
        raise InputError(f"{where} has gene names that are not unique. Call `var_names_make_unique` on it first.")
    scale = table.uns.get(UNS, {}).get("scale")
    if scale is None:
        head = table.X[:BLOCK_ROWS]
        check_log_scale(head.compute() if hasattr(head, "dask") else head, where, marked="log1p" in table.uns)
        return LOG1P_10K.text
    known = [known.text for known in SCALES.values()]
    if scale not in known:
        raise InputError(f"{where} is on the scale {scale!r}. Profiles need one of {known}.")
    return str(scale)


def _common_scale(scales: Mapping[str, str]) -> str:
    """Return the scale that all slides have."""
    first, scale = next(iter(scales.items()))
    for name, other in scales.items():
        if other != scale:
            raise InputError(
                f"Slides {first!r} and {name!r} are on different scales, {scale!r} and {other!r}, so their profiles "
                "cannot be compared. Predict all slides with one model."
            )
    return scale


def _common_model(tables: Mapping[str, AnnData]) -> dict[str, Any]:
    """Return name and fingerprint of the model that predicted all tables; empty if none of them is predicted."""
    provenance = {name: table.uns.get(UNS, {}) for name, table in tables.items()}
    models = {name: (made.get("model"), made.get("fingerprint")) for name, made in provenance.items()}
    first, model = next(iter(models.items()))
    for name, other in models.items():
        if other != model:
            raise InputError(
                f"Slides {first!r} and {name!r} were predicted by different models, {model[0]!r} and {other[0]!r} "
                f"(fingerprints {model[1]!r} and {other[1]!r}), so their profiles cannot be compared. Predict all "
                "slides with one model, or make profiles for each model."
            )
    return {} if model[1] is None else {"model": model[0], "fingerprint": model[1]}


def _shared_genes(tables: Mapping[str, AnnData]) -> pd.Index:
    """Return the genes that all slides have, in the order of the first."""
    first, *others = tables.values()
    genes = first.var_names
    for table in others:
        genes = genes[genes.isin(table.var_names)]
    smallest = min(tables, key=lambda name: tables[name].n_vars)
    if len(genes) < MIN_SHARED_GENES * tables[smallest].n_vars:
        examples = {name: list(table.var_names[:2]) for name, table in list(tables.items())[:4]}
        raise InputError(
            f"The slides share {len(genes)} genes, under half of the {tables[smallest].n_vars:,} of slide "
            f"{smallest!r}. Examples of genes: {examples}. Check the species, and bring the identifiers to the same "
            "names (`gene_id_key` when reading)."
        )
    if len(genes) < max(table.n_vars for table in tables.values()):
        logger.warning("Slides differ in their genes: the %s that all slides have are kept.", f"{len(genes):,}")
    return genes
