from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deepspot._core.atomic import replace_file, replace_folder
from deepspot._core.html import check_file
from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._sdata.view import NO_IMAGE
from deepspot.errors import InputError, MissingKeyError

from .anndata_file import make_anndata, write_h5ad
from .contents import find_contents
from .geojson import OBJECT_TYPES, write_geojson
from .space_ranger import PROVENANCE, make_matrix, write_folder, write_h5
from .tabular import check_columns, check_types, genes_path, write_csv, write_genes, write_parquet

if TYPE_CHECKING:
    from spatialdata import SpatialData

SUFFIXES = {".geojson": "geojson", ".csv": "csv", ".parquet": "parquet", ".h5ad": "h5ad", ".h5": "10x_h5"}
FOLDER = "10x"


@checked
def export(
    sdata: SpatialData,
    path: str | Path,
    *,
    format: Literal["geojson", "csv", "parquet", "h5ad", "10x", "10x_h5"] | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    genes: str | Sequence[str] | None = None,
    groupby: str | None = None,
    object_type: Literal["detection", "cell", "annotation"] | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a table of predicted, corrected or measured genes in the format of another software.

    Values are written on the scale of the table, which for predictions is logarithmic. Only matrices of 10x Genomics
    hold no logarithms: they get the measured counts, or for a prediction the predicted rates (``expm1``, counts per
    10,000). Rates are no counts, have no Poisson noise, and must not be normalized again.

    Parameters
    ----------
    sdata
        Object with the table, the shapes that it annotates and, for ``h5ad`` and ``10x``, their H&E image. It is not
        changed.
    path
        File to write, or for ``10x`` the folder. Its folder must exist.
    format
        By default chosen by the end of `path`:

        - ``"geojson"``: objects for QuPath, with genes and numbers of `obs` as measurements.
        - ``"csv"``, ``"parquet"``: a row for each spot, bin or cell with name, position, `obs` and genes. A second
          file, such as ``slide_genes.csv``, has a row for each gene with the expected r.
        - ``"h5ad"``: the table with the images and scale factors that ``sq.pl.spatial_scatter`` draws.
        - ``"10x_h5"`` (``.h5``): a feature-barcode matrix.
        - ``"10x"``: a folder as of Space Ranger, for Seurat, squidpy and :func:`deepspot.io.visium`. It has no
          ending of its own, so the format must be given.
    table_key
        Table to write; by default the predicted genes.
    layer
        Layer to write instead of `X`. An ``.h5ad`` has all layers.
    genes
        Genes to write; by default all.
    groupby
        Column of `obs` or of the shapes whose groups become classes in QuPath, with their colors if the table has them.
        By default, spots that are out of distribution have the class ``Out of distribution``.
    object_type
        Type of the objects in QuPath. By default cells are ``"cell"``, and spots and bins ``"detection"``.
        ``"annotation"`` can be edited, and is slow for more than some thousand objects.
    image_key, shapes_key
        H&E image whose full-resolution pixels are the coordinates, and shapes; needed only if there are several.
    coordinate_system
        Coordinate system that relates image and shapes; needed only if they share several that disagree.
    overwrite
        Replace an existing file, or a folder that this function wrote.

    Returns
    -------
    Path of the file or folder. Rows are in the order of the shapes, and have the barcodes of the measured table of the
    same shapes if there is one.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    FileExistsError
        If `path` exists.
    KeyError
        If a table, layer, gene, column, image or shapes element does not exist.
    ValueError
        If the format is unknown, there are several candidates for an element, names are not unique, or a table has
        neither counts nor rates for a matrix of 10x Genomics.
    TypeError
        If a column of `obs` or `var` has values that Parquet or ``.h5ad`` cannot hold, such as text and numbers.

    Examples
    --------
    >>> import tempfile
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> ds.tl.predict(sdata)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ds.io.export(sdata, folder + "/slide.geojson", genes=["ERBB2", "FASN"])
    ...     size = path.stat().st_size
    >>> path.name
    'slide.geojson'
    """
    path = Path(path).expanduser()
    kind = _format(path, format)
    if kind != "geojson" and (groupby is not None or object_type is not None):
        raise InputError(
            "`groupby` and `object_type` are for objects of QuPath: write a `.geojson`, or leave them out."
        )
    if object_type not in (None, *OBJECT_TYPES):
        raise InputError(f"`object_type` must be one of {list(OBJECT_TYPES)}, got {object_type!r}.")
    if kind == "h5ad" and layer is not None:
        raise InputError("An .h5ad holds all layers of the table: leave `layer` out.")
    files = [path, genes_path(path)] if kind in ("csv", "parquet") else [path]
    if kind == FOLDER:
        _check_folder(path, overwrite=overwrite)
    else:
        for file in files:
            check_file(file, overwrite=overwrite)
    contents = find_contents(
        sdata,
        table_key=table_key,
        layer=layer,
        genes=genes,
        image_key=image_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
    )
    scale = contents.scale
    if kind == FOLDER:
        if contents.image_key == NO_IMAGE:
            raise MissingKeyError("The object has no image, which a folder of Space Ranger has. Write a `.h5` instead.")
        matrix = make_matrix(contents)
        scale = matrix.provenance["scale"]
        with replace_folder(path, overwrite=overwrite) as new:
            write_folder(contents, matrix, new)
    elif kind == "10x_h5":
        matrix = make_matrix(contents)
        scale = matrix.provenance["scale"]
        with replace_file(path) as new:
            write_h5(matrix, new, contents.image_key or contents.shapes_key)
    elif kind == "h5ad":
        adata = make_anndata(contents)
        with replace_file(path) as new:
            write_h5ad(adata, new)
    elif kind == "geojson":
        with replace_file(path) as new:
            write_geojson(contents, new, groupby=groupby, object_type=object_type)
    else:
        check_columns(contents)
        if kind == "parquet":
            check_types(contents)
        write = write_csv if kind == "csv" else write_parquet
        with replace_file(path) as new, replace_file(files[1]) as new_genes:
            write(contents, new)
            write_genes(contents, new_genes, scale=contents.scale)
    n, many = len(contents.matched[0]), f"{len(contents.genes):,} genes"
    logger.info("Wrote %s × %s (%s; %s) to %s.", contents.noun.count(n), many, contents.kind, scale, path)
    return path


def _format(path: Path, format: str | None) -> str:
    known = [*SUFFIXES.values(), FOLDER]
    if format is None:
        found = SUFFIXES.get(path.suffix.lower())
        if found is None:
            raise InputError(
                f"The format of {path.name!r} is not clear. End it with one of {list(SUFFIXES)}, or pass `format=`, "
                f"for example `format='{FOLDER}'` for a folder as of Space Ranger."
            )
        return found
    if format not in known:
        raise InputError(f"`format` must be one of {known}, got {format!r}.")
    return format


def _check_folder(path: Path, *, overwrite: bool) -> None:
    """Raise unless a folder can be written to `path`; only one that was exported before is replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} to write {path.name!r} into. Create it first."
        )
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Choose another name, or pass `overwrite=True`.")
    if not (path / PROVENANCE).is_file():
        raise InputError(f"{str(path)!r} was not exported by this package, so it is not replaced. Delete it yourself.")
