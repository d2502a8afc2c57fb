"""The file that `torch.save` writes: a zip with a pickle, and the bytes of the tensors beside it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PICKLE = "data.pkl"
# The description of a network of any size takes some 100 KB, a scaler of 20,000 genes another 1 MB.
LARGEST_PICKLE = 8_000_000
# What `zipfile` raises on damaged files.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError,
)  # fmt: skip


class Archive:
    """Bytes in a checkpoint. All of them together are never more than the file itself."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._left = path.stat().st_size
        entries = file.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith(f"/{PICKLE}")]
        if len(self._entries) < len(entries) or len(pickles) != 1:
            raise ValueError(
                f"{path} is no checkpoint of PyTorch: it must hold one folder with one {PICKLE}. A download of several "
                "models has to be unzipped first; pass the folder of one of them."
            )
        self._root = pickles[0].removesuffix(PICKLE)
        if self._has("byteorder") and self._read("byteorder", 16) != b"little":
            raise ValueError(f"{path} was written on a machine of another byte order, which is not supported.")
        self.pickle = self._read(PICKLE, LARGEST_PICKLE)

    def storage(self, key: str, size: int) -> bytes:
        """Bytes of a tensor's storage, which must be exactly `size`."""
        data = self._read(f"data/{key}", size)
        if len(data) != size:
            raise ValueError(f"{self.path} holds {len(data)} bytes for a tensor of {size}. Get a new copy.")
        return data

    def _has(self, name: str) -> bool:
        return self._root + name in self._entries

    def _read(self, name: str, limit: int) -> bytes:
        if not self._has(name):
            raise ValueError(f"{self.path} is incomplete: it lacks {self._root + name!r}. Get a new copy.")
        entry = self._entries[self._root + name]
        # PyTorch does not compress, so that whoever does may be up to something: a bomb is small on disk.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > min(limit, self._left):
            raise ValueError(
                f"{self.path} holds {name!r} in a way or size that PyTorch does not write. Get a new copy."
            )
        self._left -= entry.file_size
        try:
            with self._file.open(entry) as file:
                return file.read(limit)
        except _UNREADABLE as error:
            raise ValueError(f"{self.path} cannot be read at {name!r} ({error}). Get a new copy.") from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a checkpoint."""
    try:
        file = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is no readable checkpoint ({error}): truncated, or written by PyTorch before 1.6. Get a new copy."
        ) from error
    with file:
        yield Archive(path, file)


MODEL, SETTINGS, GENES = "final_model.pkl", "top_param_overall.yaml", "info_highly_variable_genes.csv"
LARGEST_SETTINGS, LARGEST_GENES = 100_000, 20_000_000
FLAGS = {"true": True, "1": True, "false": False, "0": False}


def find_model(source: Path) -> Path:
    """The checkpoint in a folder, or the file itself."""
    if not source.exists():
        raise FileNotFoundError(f"There is no {str(source)!r}. Pass the folder of a published model, or its {MODEL}.")
    if source.is_file():
        return source
    if (source / MODEL).is_file():
        return source / MODEL
    inside = sorted(path.parent.name for path in source.glob(f"*/{MODEL}"))
    hint = f"Pass one of its folders: {inside}." if inside else "Pass the folder that holds it, or the file itself."
    raise FileNotFoundError(f"{source} has no {MODEL}. {hint}")


def read_settings(path: Path) -> dict[str, str]:
    """Hyper-parameters as text, by name."""
    import yaml

    try:
        # Every value stays text, so that nothing is constructed and nothing multiplies.
        found = yaml.load(_text(path, LARGEST_SETTINGS), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is no readable YAML ({type(error).__name__}). Get a new copy.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no hyper-parameters by name. Get a new copy.")
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def read_genes(path: Path) -> list[str]:
    """Names of the genes that the checkpoint predicts, in the order of its output."""
    import csv
    from io import StringIO

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: without it nobody knows which genes are predicted. Copy it there.")
    genes = []
    try:
        rows = csv.reader(StringIO(_text(path, LARGEST_GENES)), strict=True)
        head = next(rows, [])
        name, flag = head.index("gene_name"), head.index("isPredicted")
        for row in rows:
            if row and FLAGS[row[flag].strip().lower()]:
                genes.append(row[name])
    except csv.Error as error:
        raise ValueError(f"{path} is no readable CSV ({error}). Get a new copy.") from error
    except (ValueError, KeyError, IndexError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(
            f"{path} must have the columns 'gene_name' and 'isPredicted' (True or False), and does not fit ({error})."
        ) from error
    if not all(genes) or len(set(genes)) < len(genes):
        raise ValueError(f"{path} names genes that are empty or there twice. Get a new copy.")
    return genes


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"{path} is larger than such a file can be ({limit:,} bytes). Get a new copy.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}). Get a new copy.") from error
