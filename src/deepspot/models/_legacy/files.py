"""Find the files of a published model, and read its hyper-parameters and genes."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from deepspot.errors import InputError

MODEL, SETTINGS, GENES = "final_model.pkl", "top_param_overall.yaml", "info_highly_variable_genes.csv"
LARGEST_SETTINGS, LARGEST_GENES = 100_000, 20_000_000
FLAGS = {"true": True, "1": True, "false": False, "0": False}


def find_model(source: Path) -> Path:
    """Return the path of the checkpoint in a folder, or the file itself."""
    if not source.exists():
        raise FileNotFoundError(
            f"{str(source)!r} does not exist. Pass the folder of a published model, or its {MODEL}."
        )
    if source.is_file():
        return source
    if (source / MODEL).is_file():
        return source / MODEL
    inside = sorted(path.parent.name for path in source.glob(f"*/{MODEL}"))
    hint = f"Pass one of its folders: {inside}." if inside else "Pass the folder that contains it, or the file."
    raise FileNotFoundError(f"{source} contains no {MODEL}. {hint}")


def read_settings(path: Path) -> dict[str, str]:
    """Read hyper-parameters as text, by name; empty if the file does not exist."""
    import yaml

    if not path.is_file():
        return {}
    try:
        # BaseLoader keeps every value as text and constructs no objects.
        values = yaml.load(_text(path, LARGEST_SETTINGS), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path} is not readable as YAML ({type(error).__name__}). Get a new copy.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} contains no hyper-parameters by name. Get a new copy.")
    return {key: value for key, value in values.items() if isinstance(key, str) and isinstance(value, str)}


def read_genes(path: Path) -> list[str]:
    """Read the names of the predicted genes, in the order of the output."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. It names the predicted genes. Copy it there.")
    text, genes = _text(path, LARGEST_GENES), []
    try:
        # Not with pandas, which pads short rows: a crafted table with a long header would fill the memory.
        rows = csv.reader(StringIO(text), strict=True)
        head = next(rows, [])
        name, flag = head.index("gene_name"), head.index("isPredicted")
        for row in rows:
            if row and FLAGS[row[flag].strip().lower()]:
                genes.append(row[name])
    except (csv.Error, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path} must be CSV with the columns 'gene_name' and 'isPredicted' (True or False), but reading it failed "
            f"({error})."
        ) from error
    if not all(genes) or len(set(genes)) < len(genes):
        raise InputError(f"{path} contains empty or duplicate gene names. Get a new copy.")
    return genes


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{path} exceeds the maximum size of such a file ({limit:,} bytes). Get a new copy.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error}). Get a new copy.") from error
