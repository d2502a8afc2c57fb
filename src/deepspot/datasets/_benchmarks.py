"""Tasks of published benchmarks: patches of spots, their counts, given folds and genes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import checked, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_path, check_positive
from deepspot.errors import InputError, MissingKeyError
from deepspot.io import _elements
from deepspot.io._elements import reading

from ._patches import Patches
from ._published import DATASET, check_name
from ._tables import counts_of, read_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

HEST_BENCH = {
    "name": "hest_bench",
    "title": "HEST-Benchmark",
    "page": "https://huggingface.co/datasets/MahmoodLab/hest-bench",
    "license": "CC BY-NC-SA 4.0",
    "citation": "Jaume et al., HEST-1k, NeurIPS 2024, https://arxiv.org/abs/2406.16192",
}
STP_BENCH = {
    "name": "stp_bench",
    "title": "STP-Bench",
    "page": "https://huggingface.co/datasets/nexgem/STP-Bench",
    "license": "unknown",
    "citation": "STP-Bench, https://github.com/NEXGEM/STP-Bench",
}
SIDES = ("train", "test")
COLUMNS = ("sample_id", "patches_path", "expr_path")


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A task of a published benchmark: what :func:`deepspot.models.cross_validate` needs of it.

    Attributes
    ----------
    slides
        Slides by sample.
    genes
        Genes to predict, in the order of the benchmark. They were chosen on all samples, those of the test sides
        included.
    splits
        Names of training and test slides of every fold, by its name. None if the benchmark has no folds.
    patients
        Patient of every slide; None if the files do not state it.

    Examples
    --------
    >>> import deepspot as ds
    >>> task = ds.datasets.hest_bench("bench_data", "IDC")  # doctest: +SKIP
    >>> cv = ds.models.cross_validate(  # doctest: +SKIP
    ...     task.slides, splits=task.splits, genes=task.genes, patient_key=task.patients
    ... )
    """

    slides: dict[str, SpatialData]
    genes: list[str]
    splits: dict[str, list[list[str]]] | None
    patients: dict[str, str] | None = None

    def __repr__(self) -> str:
        folds = "no folds" if self.splits is None else f"{len(self.splits)} folds"
        return f"Benchmark: {len(self.slides)} slides, {len(self.genes)} genes, {folds}"


@checked
def hest_bench(folder: str | Path, task: str, *, diameter_um: float | None = None) -> Benchmark:
    """Read a task of HEST-Benchmark: patches, counts, folds and genes.

    The layout is that of the published data: ``<folder>/<task>`` with ``patches/<sample>.h5``, ``adata/<sample>.h5ad``,
    ``splits/train_0.csv``, ``splits/test_0.csv`` and so on, and ``var_50genes.json``.

    The benchmark has no images of slides, but a patch of 112 µm around each spot. The image of a slide is made of its
    patches, at their resolution, and white elsewhere; it is read from the file when it is needed. Counts are found by
    barcode. Spots without a patch are left out.

    Parameters
    ----------
    folder
        Folder with the tasks, called ``bench_data`` by the authors.
    task
        Name of the task, such as ``"IDC"``.
    diameter_um
        Diameter of the spots in µm, and so side of the tiles; by default the side of a patch, which is what encoders
        see in the benchmark. Tiles that are larger than a patch have white parts.

    Returns
    -------
    A :class:`Benchmark`. Each slide has ``images["<sample>_image"]``, the circles ``spots`` and the table ``table`` in
    the order of the patches, with raw counts (CSR, int32). ``obs["barcode"]`` is that of the patch. `patients` is None:
    the files do not name patients. By the paper the folds are by patient.

    Raises
    ------
    FileNotFoundError
        If the folder, the task or a file does not exist.
    KeyError
        If a table of folds has not the columns of the benchmark, or a gene was not measured.
    ValueError
        If a file is damaged, a patch has no counts, barcodes are repeated, or a fold is incomplete.

    Notes
    -----
    Licensed CC BY-NC-SA 4.0. Jaume et al., HEST-1k, NeurIPS 2024, https://arxiv.org/abs/2406.16192. Not tested on the
    published files: the layout was taken from the public code that reads them.

    Examples
    --------
    >>> import deepspot as ds
    >>> task = ds.datasets.hest_bench("bench_data", "IDC")  # doctest: +SKIP
    >>> task.splits["0"]  # doctest: +SKIP
    [['TENX95', 'NCBI783', 'NCBI785'], ['TENX99']]
    """
    root = _folder(folder, task)
    splits, paths = _hest_splits(root)
    genes = _genes(root / "var_50genes.json")
    slides = {
        name: _read_slide(name, patches, table, HEST_BENCH | {"task": task}, genes, diameter_um)
        for name, (patches, table) in paths.items()
    }
    return Benchmark(slides, genes, splits)


@checked
def stp_bench(
    folder: str | Path,
    dataset: str,
    *,
    meta: str | Path | None = None,
    gene_file: str = "hmhvg_200genes.json",
    diameter_um: float | None = None,
) -> Benchmark:
    """Read a data set of STP-Bench: patches, counts, folds and genes.

    The layout is ``<folder>/<dataset>`` with ``patches/<sample>.h5`` and ``st/<sample>.h5ad`` (or ``adata/``), and the
    table ``ids.csv`` with the column `sample_id`, and `case_id` and the folds ``fold_0``, ``fold_1``, … if they are
    known. Images are made of patches as by :func:`hest_bench`. Counts are found by barcode, also if patches and spots
    have the same number.

    Parameters
    ----------
    folder
        Folder with the data sets.
    dataset
        Name of the data set, such as ``"hest/LUAD"``.
    meta
        Folder with ``ids.csv`` and the genes; by default that of the data set.
    gene_file
        Name of the file with the genes in this folder.
    diameter_um
        Diameter of the spots in µm, and so side of the tiles; by default the side of a patch.

    Returns
    -------
    A :class:`Benchmark`, as by :func:`hest_bench`. `patients` are the cases, `splits` the folds of ``ids.csv``; both
    are None if the table does not have them. Without folds, :func:`deepspot.models.cross_validate` holds out every
    patient once.

    Raises
    ------
    FileNotFoundError
        If a folder or a file does not exist.
    KeyError
        If ``ids.csv`` has no column `sample_id`, or a gene was not measured.
    ValueError
        If a file is damaged, a patch has no counts, barcodes are repeated, or a fold has other values than ``train``
        and ``test``.

    Notes
    -----
    The code and data of STP-Bench state no license. Not tested on the published files: the layout was taken from the
    public code that reads them.

    Examples
    --------
    >>> import deepspot as ds
    >>> task = ds.datasets.stp_bench("STP-Bench", "hest/LUAD")  # doctest: +SKIP
    """
    root = _folder(folder, dataset)
    about = root if meta is None else Path(meta).expanduser()
    ids = _read_csv(about / "ids.csv", ["sample_id"])
    names = [check_name(name) for name in ids["sample_id"]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{about / 'ids.csv'} has sample {twice!r} twice. Download it again.")
    genes = _genes(about / gene_file)
    slides = {}
    for name in names:
        table = next((root / part / f"{name}.h5ad" for part in ("st", "adata") if (root / part).is_dir()), None)
        if table is None:
            raise FileNotFoundError(f"{root} has no folder 'st' or 'adata' with the counts. Download it again.")
        patches = root / "patches" / f"{name}.h5"
        slides[name] = _read_slide(name, patches, table, STP_BENCH | {"task": dataset}, genes, diameter_um)
    patients = dict(zip(names, ids["case_id"], strict=True)) if "case_id" in ids else None
    unknown = [name for name, case in (patients or {}).items() if pd.isna(case)]
    if unknown:
        raise InputError(f"{about / 'ids.csv'} names no case for sample {unknown[0]!r}. Fill in `case_id`.")
    return Benchmark(slides, genes, _stp_splits(ids, about / "ids.csv"), patients)


def _folder(folder: str | Path, name: str) -> Path:
    """Return the folder of a task; its name may have several parts, but must not leave the folder."""
    base = check_path(folder, "folder")
    for part in str(name).split("/"):
        check_name(part)
    root = base / name
    if not root.is_dir():
        known = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
        raise FileNotFoundError(f"There is no folder {root}. Folders in {base}: {known}.")
    return root


def _hest_splits(root: Path) -> tuple[dict[str, list[list[str]]], dict[str, tuple[Path, Path]]]:
    """Return the folds, and the files of patches and counts of every sample."""
    folder = root / "splits"
    number = len(list(folder.glob("*.csv"))) // 2
    if not number:
        raise FileNotFoundError(f"{folder} has no folds, such as 'train_0.csv' and 'test_0.csv'. Download it again.")
    splits: dict[str, list[list[str]]] = {}
    paths: dict[str, tuple[Path, Path]] = {}
    for fold in range(number):
        sides = []
        for side in SIDES:
            file = folder / f"{side}_{fold}.csv"
            frame = _read_csv(file, COLUMNS)
            for name, *files in frame[list(COLUMNS)].itertuples(index=False):
                found = _inside(root, files[0], file), _inside(root, files[1], file)
                if paths.setdefault(check_name(name), found) != found:
                    raise InputError(f"{file} has other files of sample {name!r} than another fold. Download it again.")
            sides.append(frame["sample_id"].tolist())
        splits[str(fold)] = sides
    return splits, paths


def _stp_splits(ids: pd.DataFrame, file: Path) -> dict[str, list[list[str]]] | None:
    folds = [column for column in ids if column.startswith("fold_")]
    for column in folds:
        wrong = ids.loc[~ids[column].isin(SIDES), column]
        if len(wrong):
            raise InputError(f"{file} has {wrong.iloc[0]!r} in {column!r}, where only 'train' and 'test' are known.")
    names = ids["sample_id"]
    return {
        column.removeprefix("fold_"): [names[ids[column] == side].tolist() for side in SIDES] for column in folds
    } or None


def _read_csv(file: Path, columns: Iterable[str]) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist. Download the data set again.")
    with reading(file, ".csv"):
        frame = pd.read_csv(file, dtype=str)  # a sample may be called 007
    for column in columns:
        key_in(column, frame.columns, str(file))
        if frame[column].isna().any():
            raise InputError(f"{file} has an empty entry in {column!r}. Download it again.")
    return frame


def _inside(root: Path, name: str, file: Path) -> Path:
    """Return a path in a folder; raise if it leaves the folder."""
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{file} names {name!r}, which is outside of {root}. Download it again.")
    return path


def _genes(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}, the genes of the task, does not exist. Download the data set again.")
    with reading(file, ".json"):
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    genes = content.get("genes") if isinstance(content, Mapping) else None
    if not genes or not isinstance(genes, Sequence) or not all(isinstance(gene, str) for gene in genes):
        raise InputError(f"{file} has no list of names in 'genes'. Download it again.")
    if len(set(genes)) < len(genes):
        raise InputError(f"{file} names a gene twice. Download it again.")
    return list(genes)


def _read_slide(
    name: str, patches: Path, table: Path, about: Mapping[str, str], genes: Sequence[str], diameter_um: float | None
) -> SpatialData:
    """Return a slide made of patches, with counts found by barcode."""
    from spatialdata import SpatialData

    for file in (patches, table):
        if not file.is_file():
            raise FileNotFoundError(f"{file} of sample {name!r} does not exist. Download the task again.")
    found = Patches.open(patches)
    counts = _counts_by_barcode(found, counts_of(read_table(table), table), table)
    lacking = [gene for gene in genes if gene not in counts.var_names]
    if lacking:
        raise MissingKeyError(
            f"{table} lacks {len(lacking)} of {len(genes)} genes of the task, first {lacking[0]!r}. It has genes like "
            f"{list(counts.var_names[:3])}."
        )
    centers = found.centers
    counts.obsm["spatial"] = centers
    diameter = found.side_um if diameter_um is None else check_positive(diameter_um, "diameter_um")
    image = _elements.image_element(found.image(), {"global": _elements.scaling(1.0)})
    sdata = SpatialData(images={f"{name}_image": image})
    _elements.add_spots(sdata, counts, centers, mpp=found.mpp, diameter_um=float(diameter))
    sdata.attrs[DATASET] = {**about, "sample": name}
    logger.info("Read %s of %s: %s, %.4g µm per pixel.", name, about["title"], _elements.size_of(counts), found.mpp)
    return sdata


def _counts_by_barcode(patches: Patches, table: AnnData, file: Path) -> AnnData:
    """Return the rows of a table in the order of the patches."""
    if not table.obs_names.is_unique:
        raise InputError(f"{file} has the barcode {table.obs_names[table.obs_names.duplicated()][0]!r} twice.")
    rows = table.obs_names.get_indexer(pd.Index(patches.barcodes))
    if (rows < 0).any():
        missing = np.flatnonzero(rows < 0)
        raise InputError(
            f"{len(missing)} of {len(rows)} patches of {patches.path} have no counts in {file}, first "
            f"{patches.barcodes[missing[0]]!r}; the table has barcodes like {list(table.obs_names[:3])}. Check that "
            "both files are of one sample."
        )
    if table.n_obs > len(rows):
        logger.info("%d of %d spots of %s have no patch and are left out.", table.n_obs - len(rows), table.n_obs, file)
    counts = table[rows].copy()
    counts.obs["barcode"] = list(patches.barcodes)
    return counts
