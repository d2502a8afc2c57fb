from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.keys import checked
from deepspot._core.logging import logger

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import Model
    from deepspot.tl._alignment.align import Alignment


@checked
def report(
    sdata: SpatialData,
    path: str | Path,
    *,
    genes: int | Sequence[str] = 4,
    groupby: str | None = None,
    model: Model | str | Path | None = None,
    alignment: Alignment | None = None,
    prediction_key: str | None = None,
    corrected_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    title: str | None = None,
    notes: Mapping[str, str] | None = None,
    command: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML report of one slide for pathologists, with all figures in one file.

    The report begins with how far to trust the prediction: tissue and species, out-of-distribution spots, expected r of
    genes, the number of independent patterns, agreement with measured genes, and a table of genes with the verdicts of
    :func:`deepspot.tl.trust`, of which a link saves all genes as CSV. It draws the results in `sdata`: maps of genes
    beside the plain tissue, images of the spots where a gene is high and low, groups of spots and their markers, gene
    sets, pathways, finer maps, a correction. A closing technical section has the model, versions and parameters, and
    the missing parts with the call that adds them. The file needs no network and runs no script.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, spots, and results of the functions of this package. It is not
        changed.
    path
        File to write, such as ``"report.html"``.
    genes
        Genes to draw, or their number: genes with different patterns, among the quarter with the highest expected r.
    groupby
        Column with groups of spots to draw; by default that of the marker genes, else `annotation`, else `leiden`.
    model
        The model that predicted, or the path of its bundle. The report then gives the number of training slides and
        whether this slide is one of them. Not needed for the embedded model.
    alignment
        Result of :func:`deepspot.tl.check_alignment`: the registration of measured spots and image.
    prediction_key, corrected_key, table_key
        Tables with predicted, corrected and measured genes; needed only if there are several.
    layer
        Layer of the measured table with raw counts, by default `X`.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    title
        Name of the slide; by default from the name of the image. Names can identify a patient.
    notes
        Notes on missing parts: text by heading.
    command
        Command that made this report, written into its last section.
    overwrite
        Replace an existing file.

    Returns
    -------
    Path of the file.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    FileExistsError
        If `path` exists.
    KeyError
        If a gene, a column, a table, an image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, the scale of the image is unknown, or `model` did not predict
        the table.

    Examples
    --------
    >>> import tempfile
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ds.report(sdata, folder + "/report.html", genes=1)
    >>> path.name
    'report.html'
    """
    from deepspot._core.html import check_file, render, write_file
    from deepspot.models._registry import as_model

    from .contents import find_contents
    from .facts import gather

    path = check_file(path, overwrite=overwrite)
    if model is not None:
        model = as_model(model)
    slide = find_contents(
        sdata,
        model=model,
        prediction_key=prediction_key,
        corrected_key=corrected_key,
        table_key=table_key,
        layer=layer,
        image_key=image_key,
        shapes_key=shapes_key,
    )
    facts = gather(slide, genes=genes, groupby=groupby, alignment=alignment)
    missing = slide.missing | dict(notes or {})
    page = render("_report/slide.html.j2", title=title or slide.name, command=command, missing=missing, **facts)
    write_file(path, page)
    logger.info("Wrote the report %s (%.1f MB).", path, len(page) / 1e6)
    return path
