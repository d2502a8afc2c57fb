"""The three files of a published model, and what the two beside the checkpoint say."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from deepspot.errors import InputError

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
    """Hyper-parameters as text, by name; none if there is no such file."""
    import yaml

    if not path.is_file():
        return {}
    try:
        # Every value stays text, so that nothing is constructed and nothing multiplies.
        found = yaml.load(_text(path, LARGEST_SETTINGS), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path} is no readable YAML ({type(error).__name__}). Get a new copy.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no hyper-parameters by name. Get a new copy.")
    return {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, str)}


def read_genes(path: Path) -> list[str]:
    """Names of the genes that the checkpoint predicts, in the order of its output."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: without it nobody knows which genes are predicted. Copy it there.")
    text, genes = _text(path, LARGEST_GENES), []
    try:
        # Not by pandas, which fills short rows up: a table with a long head would not fit into memory.
        rows = csv.reader(StringIO(text), strict=True)
        head = next(rows, [])
        name, flag = head.index("gene_name"), head.index("isPredicted")
        for row in rows:
            if row and FLAGS[row[flag].strip().lower()]:
                genes.append(row[name])
    except (csv.Error, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path} must be CSV with the columns 'gene_name' and 'isPredicted' (True or False), and does not fit "
            f"({error})."
        ) from error
    if not all(genes) or len(set(genes)) < len(genes):
        raise InputError(f"{path} names genes that are empty or there twice. Get a new copy.")
    return genes


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{path} is larger than such a file can be ({limit:,} bytes). Get a new copy.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}). Get a new copy.") from error
