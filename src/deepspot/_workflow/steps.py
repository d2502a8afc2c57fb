"""Steps of ``deepspot report``, from a file to the results. Existing results are reused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import PREDICTION, SLIDE, prediction_name, valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_genes
from deepspot._sdata.tables import labels_of, rows_of, tables_annotating, tables_of_kind
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_labels
from deepspot.errors import InputError
from deepspot.io._elements import read_store
from deepspot.io._space_ranger import technology_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import Model

ZARR = ("zarr.json", ".zgroup", ".zattrs")
ANNOTATION, CLUSTERS = "annotation", "leiden"
N_COMPONENTS = 50
MIN_SPOTS = 3


SCALE = ("mpp", "pitch_um", "diameter_um")
SPACE_RANGER = ("mpp", "gene_id_key")
VISIUM_HD = (*SPACE_RANGER, "bin_um")
XENIUM = ("alignment_file", "gene_id_key")
ANNDATA = (*SCALE, "library_id", "gene_id_key", "image_scale")
WHOLE_SLIDE = SCALE


def read_slide(
    path: Path,
    image: Path | None = None,
    *,
    model: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    **options: Any,
) -> SpatialData:
    """Read a SpatialData store, a whole slide image, a folder of Space Ranger or Xenium, or an .h5ad.

    A folder and an .h5ad need `image`. A store of :func:`deepspot.tl.predict` or :func:`deepspot.cohort.run` has no
    image: it is opened where it was, or at `image`. A whole slide gets spots on tissue, of the size of `model`.
    `options` are arguments of the readers of :mod:`deepspot.io`; None is left out. Paths are relative to the working
    directory, and not to the folder, as they are for the readers.
    """
    from deepspot import io, pp

    given = {name: value for name, value in options.items() if value is not None}
    if is_store(path) and is_without_image(path):
        _check_options("a prediction of a whole slide, which has its scale", given, ())
        return _in_memory(io.predicted(path, image=True if image is None else image), path)
    if is_store(path):
        used = given | ({} if image is None else {"image": image})
        _check_options("a SpatialData, which has its image and its names", used, SCALE)
        sdata = read_store(path)
        state_scale(sdata, image_key, shapes_key, **given)
        return sdata
    technology = technology_of(path) if path.is_dir() else None
    if technology == "xenium":
        _check_options("a Xenium folder", given, XENIUM)
        if "alignment_file" in given:
            given["alignment_file"] = given["alignment_file"].absolute()
        return io.xenium(path, image=_required(image, "a Xenium folder"), **given)
    if technology == "visium_hd":
        _check_options("a Visium HD folder", given, VISIUM_HD)
        return io.visium_hd(path, fullres_image_file=_required(image, "a Visium HD folder"), **given)
    if technology == "visium":
        _check_options("a Space Ranger folder", given, SPACE_RANGER)
        return io.visium(path, fullres_image_file=_required(image, "a Space Ranger folder"), **given)
    if path.is_file() and path.suffix.lower() == ".h5ad":
        from deepspot.datasets._tables import read_table

        _check_options("an .h5ad", given, ANNDATA)
        return io.from_anndata(read_table(path), _required(image, "an .h5ad"), **given)
    if path.is_file():
        used = given | ({} if image is None else {"image": image})
        _check_options("a whole slide image", used, WHOLE_SLIDE)
        sdata = io.slide(path, mpp=given.pop("mpp", None))
        pp.spots(sdata, model=model, **given)
        return sdata
    raise InputError(
        f"{str(path)!r} is not a slide that can be read: neither a SpatialData (.zarr), nor a whole slide image, nor a "
        "folder of Space Ranger (with 'spatial', or 'binned_outputs' of Visium HD) or Xenium (with "
        "'experiment.xenium'), nor an .h5ad. Read it with `ds.io` or spatialdata-io, and `write` it as a .zarr."
    )


def is_store(path: Path) -> bool:
    """Whether a path is a SpatialData store."""
    return path.is_dir() and (path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in ZARR))


def is_without_image(store: Path) -> bool:
    """Whether a store is the prediction of a whole slide, whose image is elsewhere."""
    import zarr

    try:
        root: Any = zarr.open_group(store, mode="r")
    except (OSError, ValueError):
        return False  # the reader says what is wrong
    return SLIDE in root.attrs and not ("images" in root and list(root["images"]))


def _in_memory(sdata: SpatialData, path: Path) -> SpatialData:
    """Load the predicted genes; only the best ones if all are larger than `settings.max_table_gb`."""
    ((key, table),) = sdata.tables.items()
    most = int(settings.max_table_gb * 1e9 / (4 * max(table.n_obs, 1)))
    if table.n_vars > most:
        score = table.var.get("expected_r", pd.Series(0.0, index=table.var_names)).fillna(-1)
        best = score.sort_values(ascending=False, kind="stable").index[:most]
        table = table[:, table.var_names.isin(best)]
        message = "%s: only the %s genes with the highest expected r are loaded, which fit in %g GB."
        logger.warning(message, path, f"{most:,}", settings.max_table_gb)
    sdata.tables[key] = table.to_memory()
    return sdata


def _check_options(source: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise if options are given that do not apply."""
    unused = [f"`{name}`" for name in given if name not in known]
    if unused:
        raise InputError(f"{' and '.join(unused)} cannot be given for {source}.")


def state_scale(sdata: SpatialData, image_key: str | None, shapes_key: str | None, **scale: float | None) -> None:
    """Set the scale of a SpatialData if it is given: `mpp`, `pitch_um` and `diameter_um`, or some of them."""
    from deepspot import pp

    if any(value is not None for value in scale.values()):
        pp.set_scale(sdata, image_key=image_key, shapes_key=shapes_key, **scale)


def _required(image: Path | None, source: str) -> Path:
    if image is None:
        raise InputError(f"{source[:1].upper()}{source[1:]} has no full-resolution H&E image. Pass it with --image.")
    return image.expanduser().absolute()


def predict(
    sdata: SpatialData,
    model: str | None,
    *,
    shapes_key: str,
    image_key: str | None = None,
    genes: list[str] | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> tuple[str, Model | None]:
    """Predict a slide, or find an existing prediction; return the name of the table, and the model if loaded.

    Without a model, an existing prediction is used. `genes` must be among the predicted ones; this is checked first.
    """
    from deepspot import models, tl
    from deepspot.tl._predict.table import find_prediction

    existing = tables_of_kind(sdata, shapes_key, PREDICTION)
    if model is None and existing:
        if len(existing) > 1:
            raise InputError(f"The slide has several predictions: {sorted(existing)}. Pass the model as --model.")
        (key,) = existing
        if genes:
            check_genes(genes, sdata.tables[key].var_names, "the prediction")
        logger.info("Using the existing sdata.tables[%r].", key)
        return key, None
    loaded = models.load(model)
    if genes:
        check_genes(genes, loaded.card.genes, "the prediction")
    same = find_prediction(SlideView.select(sdata, image_key, shapes_key), loaded)
    if same is not None:
        return same, loaded
    key = prediction_name(shapes_key)
    if key in sdata.tables:
        key = valid_name(f"{key}_{loaded.fingerprint}")
    compute: dict[str, Any] = {"device": device, "batch_size": batch_size}
    tl.predict(sdata, loaded, image_key=image_key, shapes_key=shapes_key, key_added=key, **compute)
    return key, loaded


def choose_groups(
    sdata: SpatialData, groupby: str | None, key: str, shapes_key: str, notes: dict[str, str]
) -> str | None:
    """Return the column with groups of the predicted spots: `groupby`, an existing one, or new Leiden clusters.

    Raises KeyError if `groupby` does not exist. Without the packages for clustering, `notes` gets the reason.
    """
    used = sdata.tables[key].uns.get("deepspot_markers", {}).get("groupby")
    for column in [groupby] if groupby is not None else [used, ANNOTATION, CLUSTERS]:
        if column is not None and _copy_labels(sdata, str(column), key, shapes_key):
            return str(column)
    if groupby is not None:
        labels_of(sdata, key, groupby)  # raises with the available columns
    try:
        labels = clusters(np.asarray(sdata.tables[key].X))
    except ImportError as error:
        notes["Regions or clusters"] = str(error)
        logger.warning("No clusters: %s", error)
        return None
    rows = rows_of(sdata.tables[key], shapes_key)
    column = pd.Series(labels[rows.index.to_numpy()], index=pd.Index(rows))
    add_labels(sdata, shapes_key, CLUSTERS, column)
    sdata.tables[key].uns[f"deepspot_{CLUSTERS}"] = {"of": "predicted genes", "seed": settings.seed}
    logger.info("Found %d Leiden clusters of spots on the predicted genes.", column.nunique())
    return CLUSTERS


def clusters(X: np.ndarray) -> pd.Categorical:
    """Cluster spots with Leiden on principal components; cluster 1 is the largest."""
    from sklearn.decomposition import PCA

    from deepspot._stats.oversample import leiden

    n = min(N_COMPONENTS, X.shape[0] - 1, X.shape[1])
    labels = leiden(PCA(n, random_state=settings.seed).fit_transform(X), settings.seed)
    return pd.Categorical([str(1 + label) for label in labels], [str(1 + label) for label in np.unique(labels)])


def _copy_labels(sdata: SpatialData, column: str, key: str, shapes_key: str) -> bool:
    """Copy labels of another table of the spots to the predicted table; return whether it has labels now."""
    for name in [key, *(name for name in tables_annotating(sdata, shapes_key) if name != key)]:
        try:
            labels = labels_of(sdata, name, column)
        except KeyError:
            continue
        if name != key:
            rows = rows_of(sdata.tables[name], shapes_key)
            values = pd.Categorical(labels.iloc[rows.index].to_numpy(), labels.cat.categories)
            add_labels(sdata, shapes_key, column, pd.Series(values, index=pd.Index(rows)), overwrite=True)
        return True
    return False


def find_markers(sdata: SpatialData, key: str, groupby: str) -> None:
    """Find markers of the groups with enough spots."""
    from deepspot import tl

    uns = sdata.tables[key].uns
    if "markers" in uns and uns.get("deepspot_markers", {}).get("groupby") == groupby:
        logger.info("Using the existing markers of sdata.tables[%r].", key)
        return
    size = labels_of(sdata, key, groupby).value_counts(sort=False)
    large = [str(name) for name in size.index[size >= MIN_SPOTS]]
    for stale in ("markers", "enrichment", "deepspot_enrichment"):  # of other groups
        uns.pop(stale, None)
    # Predictions of neighboring spots are correlated, which the block test takes into account.
    tl.markers(sdata, groupby, table_key=key, groups=large, test="blocks", overwrite=True)


def find_gene_sets(sdata: SpatialData, key: str, gene_sets: str | None) -> None:
    """Find gene sets enriched in the markers."""
    from deepspot import tl

    if gene_sets is None and "enrichment" in sdata.tables[key].uns:
        logger.info("Using the existing gene sets of sdata.tables[%r].", key)
        return
    tl.enrich(sdata, gene_sets, table_key=key, overwrite=True)


def score_pathways(sdata: SpatialData, key: str, net: Path | None) -> None:
    """Score pathway activity."""
    from deepspot import tl

    if net is None and "score_mlm" in sdata.tables[key].obsm:
        logger.info("Using the existing pathways of sdata.tables[%r].", key)
        return
    tl.pathways(sdata, net, table_key=key, overwrite=True)
