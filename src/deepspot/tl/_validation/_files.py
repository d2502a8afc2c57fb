"""A result as plain files, that any other program can read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd

from ._factories import plain
from ._result import CrossValidation
from ._scores import UNDEFINED

FORMAT = 1
TABLE, INNER, REST = "table.csv.gz", "inner.csv.gz", "cross_validation.json"
FIELDS = ("grid", "top", "leave_out", "genes", "slides", "seed", "n_bootstrap")


def save(result: CrossValidation, path: Path, *, overwrite: bool) -> None:
    """Write a folder, all of it or nothing."""
    if path.exists() and not (overwrite and (path / REST).is_file()):
        raise FileExistsError(
            f"{path} is there already. Choose another folder, or pass `overwrite=True`, which replaces a saved "
            "cross-validation and nothing else."
        )
    content = {"format": FORMAT} | {name: plain(getattr(result, name), repr) for name in FIELDS}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        for name, frame in ((TABLE, result.table), (INNER, result.inner)):
            frame.to_csv(new / name, index=False, compression={"method": "gzip", "mtime": 0})
        (new / REST).write_text(json.dumps(content, indent=1))
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def load(path: Path) -> CrossValidation:
    """Read what `save` wrote."""
    missing = [name for name in (TABLE, INNER, REST) if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{path} is no saved cross-validation: it has no {missing}. Pass the folder of `save`.")
    content = json.loads((path / REST).read_text())
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{path / REST} has another format than {FORMAT}, which this version reads. Update deepspot.")
    content["top"] = tuple(content["top"])
    return CrossValidation(tidy(_read(path / TABLE)), _read(path / INNER), **content)


def _read(file: Path) -> pd.DataFrame:
    # As text first: a gene or a patient may be called NA or 007, and every digit of r counts.
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in frame.columns.intersection(["r", "r_pooled", "area"]):
        frame[column] = [float(value or "nan") for value in frame[column]]
    for column in frame.columns.intersection(["rank", "setting"]):
        frame[column] = frame[column].astype("int64")
    if "null" in frame:
        frame["null"] = frame["null"] == "True"
    return frame


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Names as categories, in the order in which they come."""
    for column in ("model", "fold", "patient", "slide", "gene"):
        table[column] = pd.Categorical(table[column], categories=list(dict.fromkeys(table[column])))
    table["undefined"] = pd.Categorical(table["undefined"], categories=list(UNDEFINED))
    return table
