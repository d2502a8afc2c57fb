from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot
    from deepspot.tl._alignment.align import Alignment


def report(
    sdata: SpatialData,
    path: str | Path,
    *,
    genes: int | Sequence[str] = 4,
    groupby: str | None = None,
    model: DeepSpot | str | Path | None = None,
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
    """Write a report of one slide as a single HTML file with embedded figures.

    It shows the slide, says which model predicted and how far it can be trusted (spots unlike its training, the r to be
    expected of genes, and agreement where genes were measured), and draws what was done: maps of genes, images of the
    spots where one is high and low, groups of spots and their markers, gene sets, pathways, finer maps, a correction.
    What was not done is listed with the call that does it. The file needs no network and runs no script.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale and spots, and whatever the functions of this package have added. It is
        not changed.
    path
        File to write, such as ``"report.html"``.
    genes
        Genes to draw, or how many of those with the highest expected r.
    groupby
        Column with groups of spots to draw; by default that of the marker genes, else `annotation`, else `leiden`.
    model
        The model that predicted, or the path of its bundle: the report then says how much it learned from, and whether
        this slide is part of that. The embedded model is recognized by itself.
    alignment
        From :func:`deepspot.tl.check_alignment`, to report the registration of measured spots and image.
    prediction_key, corrected_key, table_key
        Tables with predicted, corrected and measured genes; needed only if there are several.
    layer
        Layer of the measured table with raw counts, by default `X`.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    title
        What to call the slide; by default the name of the image. Mind that names may tell who the patient is.
    notes
        What else a reader should know of parts that are missing: text by heading.
    command
        How this report was made, to be written into it.
    overwrite
        Replace a file of that name.

    Returns
    -------
    The path.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    FileExistsError
        If `path` exists.
    KeyError
        If a gene, a column, a table, an image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, the scale of the image is unknown, or `model` is not the one
        that predicted.

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
    from deepspot import models
    from deepspot._core.html import check_file, render, write_file

    from .contents import find_contents
    from .facts import gather

    path = check_file(path, overwrite=overwrite)
    if model is not None and not isinstance(model, models.DeepSpot):
        model = models.load(model)
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
