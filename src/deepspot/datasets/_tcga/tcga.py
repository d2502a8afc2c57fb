from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.validate import check_positive
from deepspot.datasets._shared.published import check_name

from .files import find
from .read import read

if TYPE_CHECKING:
    from spatialdata import SpatialData


def tcga(
    sample: str,
    *,
    mpp: float | None = None,
    genes: str | Sequence[str] | None = None,
    folder: str | Path | None = None,
    download: bool = True,
    token: str | None = None,
    spot_diameter_um: float | None = None,
    max_gb: float = 50.0,
) -> SpatialData:
    """Read one TCGA slide that the paper's authors predicted, as a prediction that the tools here take.

    It is looked up in `folder`, in ``$DEEPSPOT_DATA/tcga`` and in the cache, as ``<sample>.h5ad.gz`` or
    ``<sample>.h5ad``, by itself or in ``<cohort>/<FFPE or FF>/``. Else it is downloaded into the cache, where access
    has to be asked for: accept the terms on the page of the data set, and make a token.

    Circles lie where the authors predicted, and are as wide as their tiles were. These were laid out in pixels, so that
    their size in µm is not that of the training (section 6 of the paper; 30 instead of 55 µm for kidney).

    Parameters
    ----------
    sample
        Name of the slide, such as ``"TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-…"``: `sample_id` in the index of the data set.
    mpp
        µm per pixel of the slide, as its header says (``aperio.MPP``), unless the file states it.
    genes
        Genes to load; by default all.
    folder
        Folder with files.
    download
        Whether the slide may be downloaded (some GB).
    token
        Access token of Hugging Face; by default ``HF_TOKEN``, or what the machine has stored. Nothing is stored here.
    spot_diameter_um
        Diameter of the circles; by default the side of the authors' tiles, which follows from how they number them.
    max_gb
        Largest size that a file may unpack to. It is unpacked into the cache, read, and deleted.

    Returns
    -------
    A SpatialData with the circles ``spots``, the table ``deepspot_spots``, the coordinate systems ``"global"`` (pixels
    of the slide) and ``"microns"``, and ``images["<sample>_thumbnail_image"]``, the small copy that comes along. Tiles
    cannot be read from it.

    ``X``
        Expression, float32, on the scale log1p of counts per 10,000, values below 0 set to 0 as in the paper.
    ``obs``
        That of the authors, with `array_row`, `array_col`, `pxl_row_in_fullres` and `pxl_col_in_fullres` for their
        `x_array`, `y_array`, `x_pixel` and `y_pixel` (their x runs down the image); `sample`, `patient` (the first
        twelve letters of the barcode), `cohort` and `slide_type`.
    ``varm["bulk"]``
        Bulk RNA of the sample, measured, if the file has it.
    ``uns["deepspot"]``
        `kind` (``"prediction"``), `scale`, `model` (``"the authors' DeepSpot, <cohort>"``), `licence`, and
        `fingerprint`: of the genes, as the weights do not come along.
    ``attrs["deepspot_dataset"]``
        Name, page, licence and citation.

    Raises
    ------
    KeyError
        If there is no such slide or gene.
    FileNotFoundError
        If the slide is not on this machine, and `download` is False.
    PermissionError
        If Hugging Face wants the terms accepted, or a token.
    ConnectionError
        If the slide cannot be downloaded.
    ValueError
        If the scale is unknown, a file is damaged, cut off or unpacks to more than `max_gb`, or its values are counts
        or not finite.

    Notes
    -----
    Terms are on https://huggingface.co/datasets/nonchev/TCGA_digital_spatial_transcriptomics: no sharing, harmful use
    excluded. Nonchev et al., DeepSpot (2025), https://doi.org/10.1101/2025.02.09.25321567. What is in the files is
    known from the authors' pipeline; we have never seen one.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.tcga("TCGA-D9-A3Z3-06Z-00-DX1.C4820632", mpp=0.25)  # doctest: +SKIP
    >>> profile = ds.tl.pseudobulk(sdata)  # doctest: +SKIP
    """
    check_name(sample)
    for argument, value in {"mpp": mpp, "spot_diameter_um": spot_diameter_um, "max_gb": max_gb}.items():
        if value is not None:
            check_positive(value, argument)
    path, cohort = find(sample, folder, download, token)
    return read(path, sample, cohort, mpp=mpp, genes=genes, diameter_um=spot_diameter_um, max_gb=max_gb)
