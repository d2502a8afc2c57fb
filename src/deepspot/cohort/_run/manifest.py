"""Manifest of a cohort. It is checked completely before any slide is predicted."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from deepspot._core.hashing import hash_file
from deepspot._core.keys import valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_path
from deepspot._sdata.write import MAX_NAME, check_writable
from deepspot.errors import InputError, InputTypeError

REQUIRED = ("path", "patient")
TEXT = ("path", "patient", "slide", "preservation", "tumor_type")
NUMBERS = ("mpp", "tissue_area")
PRESERVATION = ("FF", "FFPE")
# Columns of the run table and of the profiles, which a column of the manifest would hide.
RESERVED = ("status", "seconds", "spots", "ood_share", "error")
MAX_SHOWN = 10
# Not numbers: identifiers such as 0012 or 1E5, and integers with more digits than a float.
NUMBER = r"-?(?:(?:0|[1-9]\d{0,14})(?:\.\d*)?|\.\d+)(?:[eE][+-]\d+)?"


def read_manifest(manifest: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Read and check a manifest; the error lists all mistakes.

    Returns one row for each slide, in the same order, indexed by `slide`, the name. `path` is absolute (relative to the
    folder of the CSV, or to the working directory). `patient` is text. Other columns of a CSV are numbers if all of
    their values are numbers; those of a data frame are kept as far as they can be written.
    """
    frame, folder = _load(manifest)
    twice = list(frame.columns[frame.columns.duplicated()])
    wrong = [name for name in frame.columns if not isinstance(name, str)] or twice
    if wrong:
        raise InputError(f"Columns of the manifest must be text, each with its own name, got {wrong}.")
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise InputError(
            f"The manifest lacks the columns {missing}; it has {list(frame.columns)}. Required are `path` and "
            "`patient`; `slide`, `mpp`, `preservation` and others are optional."
        )
    clashes = [name for name in RESERVED if name in frame]
    if clashes:
        raise InputError(f"The manifest has columns {clashes}, which are names of results. Rename them.")
    if frame.empty:
        raise InputError("The manifest has no rows.")
    for name in TEXT:
        if name in frame:
            frame[name] = _text(frame[name])
    if "preservation" in frame:
        frame["preservation"] = frame["preservation"].str.upper()
    names = frame["slide"] if "slide" in frame else [None] * len(frame)
    stems = [None if path is None else valid_name(Path(path).stem) for path in frame["path"]]
    frame["slide"] = [stem if name is None else name for name, stem in zip(names, stems, strict=True)]
    problems = list(_problems(frame))
    if problems:
        more = f"\n… and {len(problems) - MAX_SHOWN} more." if len(problems) > MAX_SHOWN else ""
        raise InputError("The manifest has mistakes:\n" + "\n".join(problems[:MAX_SHOWN]) + more)
    frame["path"] = [str(folder / Path(path).expanduser()) for path in frame["path"]]
    _check_copies(frame)
    for name in NUMBERS:
        if name in frame:
            frame[name] = pd.to_numeric(frame[name]).astype(float)
    return _writable(frame.set_index("slide"))


def _load(manifest: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, Path]:
    """Return the rows, and the folder of relative paths."""
    if isinstance(manifest, pd.DataFrame):
        named = manifest.reset_index() if manifest.index.name == "slide" and "slide" not in manifest else manifest
        return named.reset_index(drop=True).copy(), Path.cwd()
    if not isinstance(manifest, str | Path):
        raise InputTypeError(
            "`manifest` must be the path of a CSV, or a data frame with the columns `path` and `patient`, got "
            f"{type(manifest).__name__}."
        )
    path = check_path(manifest, "manifest")
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest {str(path)!r}. Pass the path of a CSV, or a data frame.")
    try:
        # Text, because patients 007 and 7 differ. The encoding drops the byte order mark of spreadsheets.
        # Spreadsheets of many countries write semicolons, and decimal commas.
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        sep = ";" if header.count(";") > header.count(",") else ","
        frame = pd.read_csv(_rectangular(text, sep, path), dtype=str, skipinitialspace=True)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as a CSV in UTF-8: {error}") from error
    for name in frame:
        if name not in TEXT:
            text = frame[name].str.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True) if sep == ";" else frame[name]
            frame[name] = _numbers(text)
    return frame, path.resolve().parent


def _rectangular(text: str, sep: str, path: Path) -> io.StringIO:
    """Return the lines of a CSV without the empty fields behind the last column; raise if such fields hold text.

    pandas would shift all columns.
    """
    lines = list(csv.reader(io.StringIO(text), delimiter=sep, skipinitialspace=True))
    header = lines[0] if lines else []
    twice = sorted({name for name in header if name.strip() and header.count(name) > 1})
    if twice:
        raise InputError(f"{str(path)!r} has several columns {twice}. Give each column its own name.")
    longer = [number for number, line in enumerate(lines[1:]) if any(field.strip() for field in line[len(header) :])]
    if longer:
        raise InputError(
            f"{str(path)!r} has more fields than columns in {_rows(longer)}. Quote text that contains {sep!r}."
        )
    file = io.StringIO()
    csv.writer(file).writerows(line[: len(header)] for line in lines)
    file.seek(0)
    return file


def _numbers(column: pd.Series) -> pd.Series:
    """Convert text to numbers or booleans if this is possible for all values without loss."""
    text = _text(column)
    words = text.dropna().str
    if words.fullmatch(NUMBER).all():  # also of an empty column
        return pd.to_numeric(text)
    if text.notna().all() and words.fullmatch("true|false", case=False).all():
        return text.str.lower() == "true"
    return text


def _text(column: pd.Series) -> pd.Series:
    """Convert to stripped text, and to None where there is none."""
    values = [None if pd.isna(value) or not str(value).strip() else str(value).strip() for value in column]
    return pd.Series(values, index=column.index, dtype=object)


def _problems(frame: pd.DataFrame) -> Iterator[str]:
    for name in REQUIRED:
        rows = frame.index[frame[name].isna()]
        if len(rows):
            yield f"`{name}` is empty in {_rows(rows)}."
    for row, path in frame["path"].dropna().items():
        try:
            check_path(path, "path")
        except InputError as error:
            yield f"{str(error).removesuffix('.')}, in {_rows([row])}."
    for name in NUMBERS:
        if name in frame:
            number = pd.to_numeric(frame[name], errors="coerce")
            for row, value in frame.loc[frame[name].notna() & ~(np.isfinite(number) & (number > 0)), name].items():
                shown = repr(value) if isinstance(value, str) else value
                yield f"`{name}` must be a number above 0, got {shown} in {_rows([row])}."
    if "preservation" in frame:
        kinds = frame["preservation"]
        for row, kind in kinds[kinds.notna() & ~kinds.isin(PRESERVATION)].items():
            yield f"`preservation` must be one of {list(PRESERVATION)} or empty, got {kind!r} in {_rows([row])}."
    names = frame["slide"].dropna()
    for row, name in names[names != names.map(valid_name)].items():
        yield f"`slide` may contain letters, digits, '_', '-' and '.', got {name!r} in {_rows([row])}."
    for row, name in names[names.map(lambda name: len(f"{name}_image".encode()) > MAX_NAME)].items():
        yield f"The slide name {name[:40]!r}… in {_rows([row])} is too long. Give a shorter one in the column `slide`."
    for _, same in names.groupby(names.str.lower(), sort=False):
        if len(same) > 1:
            yield (
                f"Slide name {same.iloc[0]!r} is given to {len(same)} slides, in {_rows(same.index)}, ignoring case. "
                "Use unique names in the column `slide`."
            )


def _check_copies(frame: pd.DataFrame) -> None:
    """Raise if one file, or a copy of it, is given to two patients; warn if it is given to one patient twice."""
    files = [Path(path).resolve() for path in frame["path"]]
    sizes = Counter(_size(file) for file in set(files))
    contents = pd.Series([_content(file, sizes) for file in files], frame.index)
    for _, rows in contents.groupby(contents, sort=False):
        if len(rows) == 1:
            continue
        patients = frame.loc[rows.index, "patient"].unique().tolist()
        text = f"The manifest holds the same slide in {_rows(rows.index)}: {frame['path'][rows.index[0]]!r}"
        if len(patients) > 1:
            raise InputError(f"{text}, of the patients {patients}. Correct the patients, or remove the copies.")
        logger.warning(f"{text}. It will count several times for patient {patients[0]!r}.")


def _size(file: Path) -> int | None:
    with suppress(OSError):  # the slide will be a failed row
        return file.stat().st_size if file.is_file() else None
    return None


def _content(file: Path, sizes: Counter[int | None]) -> str:
    """Return the hash of a file if others have its size, else its path."""
    size = _size(file)
    with suppress(OSError):
        return hash_file(file) if size is not None and sizes[size] > 1 else str(file)
    return str(file)


def _rows(rows: pd.Index | list[int]) -> str:
    """Number rows as a spreadsheet does: the header is row 1."""
    shown = ", ".join(str(int(row) + 2) for row in rows[:MAX_SHOWN])
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}" + (", …" if len(rows) > MAX_SHOWN else "")


def _writable(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert mixed columns to text, so that the profiles can be written; raise if they still cannot."""
    from anndata import AnnData

    for name in frame:
        if frame[name].dtype == object:
            frame[name] = _text(frame[name]) if frame[name].notna().any() else np.nan
    check_writable(AnnData(obs=frame.copy()))
    return frame
