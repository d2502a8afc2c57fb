from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.validate import check_positive
from deepspot.datasets._shared.published import check_name

from .files import find
from .read import read

if TYPE_CHECKING:
    from spatialdata import SpatialData


def hest(
    sample: str,
    *,
    folder: str | Path | None = None,
    download: bool = True,
    token: str | None = None,
    mpp: float | None = None,
    spot_diameter_um: float | None = None,
    gene_id_key: str | None = None,
) -> SpatialData:
    """Read one sample of HEST-1k: measured spots on an H&E image.

    It is looked up in `folder`, in ``$DEEPSPOT_DATA/hest`` and in the cache, in either layout: that of HEST
    (``st/<sample>.h5ad``, ``wsis/<sample>.tif``, ``metadata/<sample>.json``), or that of the authors' example
    (``h5ad/``, ``image/`` and ``meta/``, also inside ``data/``). Else it is downloaded into the cache, where access has
    to be asked for: accept the terms on the page of the data set, and make a token.

    The µm per pixel are ``pixel_size_um_estimated``, which HEST measured on the spots, and not
    ``pixel_size_um_embedded``, which the image states and which is wrong for many samples. They are compared with the
    distance between the spots. In the authors' layout the image has fewer pixels than that number is for, so that it
    is the spots which tell.

    Xenium and Visium HD come pooled in squares without gaps (100 µm for most). They are read as spots whose diameter is
    the side of the square, which is what a tile of them shows. Samples of single cells are refused.

    Parameters
    ----------
    sample
        Its `id`, such as ``"TENX152"``.
    folder
        Folder with files in one of the layouts.
    download
        Whether the sample may be downloaded (image and counts, up to some GB).
    token
        Access token of Hugging Face; by default ``HF_TOKEN``, or what the machine has stored. Nothing is stored here.
    mpp
        µm per pixel of the image, for a sample whose files contradict themselves.
    spot_diameter_um
        Diameter of the tissue that a spot measures; by default 55 for Visium, whatever was drawn, and what the
        metadata state for Spatial Transcriptomics.
    gene_id_key
        Column of `var` whose identifiers become the gene names.

    Returns
    -------
    A SpatialData with ``images["<sample>_image"]`` (not loaded, if it is tiled), the circles ``spots``, the table
    ``table`` and the coordinate systems ``"global"`` and ``"microns"``.

    ``X``
        Raw counts, CSR, int32, of spots in tissue and of genes only.
    ``obs``
        That of HEST, and `sample`, `patient`, `organ`, `disease_state`, `oncotree_code`, `species`, `technology`, as
        far as they are known. HEST numbers patients anew in each study, so `patient` ends with the study; a study
        that names none counts as one patient.
    ``attrs["deepspot_dataset"]``
        Name, page, licence, citation, study and technology.

    Raises
    ------
    KeyError
        If there is no such sample.
    FileNotFoundError
        If files are missing, and `download` is False.
    PermissionError
        If Hugging Face wants the terms accepted, or a token.
    ConnectionError
        If the sample cannot be downloaded.
    ValueError
        If `sample` is no name, a file is damaged, `X` holds no counts, the scale is unknown or contradicts the spots,
        spots lie outside the image, or these are single cells.

    Notes
    -----
    Licensed CC BY-NC-SA 4.0; the studies that HEST collects have licences of their own. Jaume et al., HEST-1k: A
    Dataset for Spatial Transcriptomics and Histology Image Analysis, NeurIPS 2024, https://arxiv.org/abs/2406.16192.
    The layouts are those of HEST's own reader and of the authors' pipeline; the download itself was never tried by us.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.hest("TENX152")  # doctest: +SKIP
    """
    check_name(sample)
    for argument, value in {"mpp": mpp, "spot_diameter_um": spot_diameter_um}.items():
        if value is not None:
            check_positive(value, argument)
    files = find(sample, folder, download, token)
    return read(files, sample, mpp=mpp, spot_diameter_um=spot_diameter_um, gene_id_key=gene_id_key)
