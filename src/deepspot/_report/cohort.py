from __future__ import annotations

from pathlib import Path

from deepspot._core.keys import checked
from deepspot._core.logging import logger


@checked
def report_cohort(
    folder: str | Path,
    path: str | Path,
    *,
    gene: str | None = None,
    n: int = 50,
    title: str | None = None,
    command: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML report of a cohort: which slides need attention, and one gene on all of them.

    The report lists slides that failed, that are unlike the training tissue, or whose mean expression differs from that
    of the others; it shows the image of each slide beside the map of one gene, on one color scale; and it contains the
    run table. Images are opened where they were predicted. A slide whose image is gone is drawn without it, and the
    report says where it was. The file needs no network and runs no script.

    Parameters
    ----------
    folder
        Output folder of :func:`deepspot.cohort.run`. It is not changed.
    path
        File to write, such as ``"cohort.html"``.
    gene
        Gene to draw, by default the one with the highest expected r.
    n
        Maximum number of slides to draw. Those that need attention come first, then others in the order of the run
        table.
    title
        Name of the cohort; by default that of the folder.
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
        If there is no run table in `folder`, or the folder of `path` does not exist.
    FileExistsError
        If `path` exists.
    KeyError
        If the model does not predict the gene.
    ValueError
        If `n` is below 1.

    See Also
    --------
    deepspot.report : Report of one slide.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.report_cohort("predicted", "cohort.html")  # doctest: +SKIP
    """
    from deepspot._core.html import check_file, render, write_file
    from deepspot._core.validate import check_count

    from .cohort_facts import gather

    check_count(n, "n")
    path = check_file(path, overwrite=overwrite)
    folder = Path(folder).expanduser()
    facts = gather(folder, gene, n)
    page = render("_report/cohort.html.j2", title=title or folder.resolve().name, command=command, **facts)
    write_file(path, page)
    logger.info("Wrote the report %s (%.1f MB).", path, len(page) / 1e6)
    return path
