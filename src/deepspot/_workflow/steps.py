"""Steps from a file to all that the report of a slide shows. A step whose result is there is not done again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PREDICTION, prediction_name, valid_name
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_genes
from deepspot._sdata.tables import labels_of, rows_of, tables_annotating, tables_of_kind
from deepspot._sdata.view import SlideView
from deepspot._sdata.write import add_labels
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot

ZARR = ("zarr.json", ".zgroup", ".zattrs")
ANNOTATION, CLUSTERS = "annotation", "leiden"
N_COMPONENTS = 50
MIN_SPOTS = 3


def read_slide(path: Path, image: Path | None = None, mpp: float | None = None) -> SpatialData:
    """Read a slide, whatever of the three kinds it is.

    Raises
    ------
    ValueError
        If it is none of them, or `image` and `mpp` are missing or of no use.
    """
    if path.is_dir() and (path.suffix == ".zarr" or any((path / name).is_file() for name in ZARR)):
        from spatialdata import read_zarr

        if image is not None or mpp is not None:
            raise InputError(
                "--image and --mpp are for an .h5ad or a folder of Space Ranger. A SpatialData has its image, and its "
                "scale is stated with `ds.pp.set_scale`."
            )
        return read_zarr(path)
    if path.is_dir() and (path / "spatial").is_dir():
        from deepspot.io import visium

        return visium(path, fullres_image_file=_given(image, "Space Ranger does not copy it").resolve(), mpp=mpp)
    if path.is_file() and path.suffix == ".h5ad":
        from anndata import read_h5ad

        from deepspot.io import from_anndata

        image = _given(image, "an .h5ad does not hold it")
        try:
            return from_anndata(read_h5ad(path), image, mpp=mpp)
        except ValueError as error:
            if mpp is None and "mpp" in str(error):
                error.add_note("On the command line: --mpp.")
            raise
    raise InputError(
        f"{str(path)!r} is no slide that can be read: neither a SpatialData (.zarr), nor a folder of Space Ranger "
        "(with a folder 'spatial'), nor an .h5ad. Read it with `ds.io` or spatialdata-io, and `write` it as a .zarr."
    )


def _given(image: Path | None, why: str) -> Path:
    if image is None:
        raise InputError(f"The full-resolution H&E image is missing: {why}. Name its file with --image.")
    return image


def predict(
    sdata: SpatialData,
    model: str | None,
    *,
    shapes_key: str,
    image_key: str | None = None,
    genes: list[str] | None = None,
) -> tuple[str, DeepSpot | None]:
    """Predict the genes of a slide; without a model, a prediction that is there is taken as it is.

    Returns
    -------
    Name of the table, and the model if it was loaded.

    Raises
    ------
    KeyError
        If a gene to draw is not one of those that are predicted, before any are.
    ValueError
        If no model was named and there are several predictions.
    """
    from deepspot import models, tl
    from deepspot.tl._predict.table import find_prediction

    made = tables_of_kind(sdata, shapes_key, PREDICTION)
    if model is None and made:
        if len(made) > 1:
            raise InputError(
                f"The slide holds several predictions: {sorted(made)}. Name the model of one with --model."
            )
        (key,) = made
        if genes:
            check_genes(genes, sdata.tables[key].var_names, "the prediction")
        logger.info("Using sdata.tables[%r], which the slide holds.", key)
        return key, None
    loaded = models.load(model)
    if genes:
        check_genes(genes, loaded.card.genes, "the prediction")
    found = find_prediction(SlideView.select(sdata, image_key, shapes_key), loaded)
    if found is not None:
        return found, loaded
    key = prediction_name(shapes_key)
    if key in sdata.tables:
        key = valid_name(f"{key}_{loaded.fingerprint}")
    tl.predict(sdata, loaded, image_key=image_key, shapes_key=shapes_key, key_added=key)
    return key, loaded


def choose_groups(
    sdata: SpatialData, wanted: str | None, key: str, shapes_key: str, notes: dict[str, str]
) -> str | None:
    """Name of a column with groups of the rows of the predicted table: what was asked for, else what is there.

    If there is none, clusters are found; if that needs a package that is not installed, `notes` says so.

    Raises
    ------
    KeyError
        If no table has the column that was asked for.
    """
    used = sdata.tables[key].uns.get("deepspot_markers", {}).get("groupby")
    for column in [wanted] if wanted is not None else [used, ANNOTATION, CLUSTERS]:
        if column is not None and _has_labels(sdata, str(column), key, shapes_key):
            return str(column)
    if wanted is not None:
        labels_of(sdata, key, wanted)  # raises, and says what there is
    try:
        labels = clusters(np.asarray(sdata.tables[key].X))
    except ImportError as error:
        notes["Regions or clusters"] = str(error)
        logger.warning("No clusters: %s", error)
        return None
    rows = rows_of(sdata.tables[key], shapes_key)
    column = pd.Series(labels[rows.index.to_numpy()], index=pd.Index(rows))
    add_labels(sdata, shapes_key, CLUSTERS, column)
    logger.info("Found %d clusters of spots by their predicted genes (Leiden).", column.nunique())
    return CLUSTERS


def clusters(X: np.ndarray) -> pd.Categorical:
    """Clusters of spots by Leiden on principal components; the largest is called 1."""
    from sklearn.decomposition import PCA

    from deepspot._stats.oversample import leiden

    n = min(N_COMPONENTS, X.shape[0] - 1, X.shape[1])
    found = leiden(PCA(n, random_state=settings.seed).fit_transform(X), settings.seed)
    return pd.Categorical([str(1 + number) for number in found], [str(1 + number) for number in np.unique(found)])


def _has_labels(sdata: SpatialData, column: str, key: str, shapes_key: str) -> bool:
    """Whether the predicted table has labels; those of another table of the spots are copied to it."""
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
    """Find the markers of the groups that have enough spots."""
    from deepspot import tl

    uns = sdata.tables[key].uns
    if "markers" in uns and uns.get("deepspot_markers", {}).get("groupby") == groupby:
        logger.info("Using the markers of sdata.tables[%r].", key)
        return
    size = labels_of(sdata, key, groupby).value_counts(sort=False)
    large = [str(name) for name in size.index[size >= MIN_SPOTS]]
    for stale in ("markers", "enrichment", "deepspot_enrichment"):  # of other groups
        uns.pop(stale, None)
    # The test that respects the neighborhood, as predictions of neighbors resemble each other all the more.
    tl.markers(sdata, groupby, table_key=key, groups=large, test="blocks", overwrite=True)


def find_gene_sets(sdata: SpatialData, key: str, gene_sets: str | None) -> None:
    """Find the gene sets that hold markers."""
    from deepspot import tl

    if gene_sets is None and "enrichment" in sdata.tables[key].uns:
        logger.info("Using the gene sets of sdata.tables[%r].", key)
        return
    tl.enrich(sdata, gene_sets, table_key=key, overwrite=True)


def score_pathways(sdata: SpatialData, key: str, net: Path | None) -> None:
    """Score the activity of pathways."""
    from deepspot import tl

    if net is None and "score_mlm" in sdata.tables[key].obsm:
        logger.info("Using the pathways of sdata.tables[%r].", key)
        return
    tl.pathways(sdata, net, table_key=key, overwrite=True)
