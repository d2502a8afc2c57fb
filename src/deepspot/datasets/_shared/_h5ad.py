"""Reading .h5ad files of others: whatever goes wrong in the library below is said of the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def read_table(path: Path) -> AnnData:
    """Read a table as a whole."""
    from anndata import read_h5ad

    with reading(path), numbered_later():
        return read_h5ad(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of HDF5 into one that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise anything
        raise ValueError(
            f"{path} is damaged, cut off or no .h5ad ({type(error).__name__}: {error}). Get it again."
        ) from error


@contextmanager
def numbered_later() -> Iterator[None]:
    """Without the warning that gene names repeat: `name_genes` says so, with the way out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        yield
