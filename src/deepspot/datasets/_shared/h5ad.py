"""Reading .h5ad files of others: whatever goes wrong in the library below is said of the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

# Counts of spots are packed five to twenty times.
SMALL, PACKED = 10**9, 200


def read_table(path: Path) -> AnnData:
    """Read a table as a whole."""
    from anndata import read_h5ad

    check_extent(path)
    with reading(path), numbered_later():
        return read_h5ad(path)


def check_extent(path: Path) -> None:
    """Raise if a file refers to other files, or holds far more than its size lets expect: zeros pack to nothing.

    Raises
    ------
    ValueError
        If so, or the file is damaged.
    """
    import h5py

    total, foreign = 0, []

    def look(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += item.size * item.dtype.itemsize if item.size else 0
            if item.external or item.is_virtual:
                foreign.append(name)

    def look_at_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            foreign.append(name)

    with reading(path), h5py.File(path) as file:
        file.visititems(look)
        file.visititems_links(look_at_link)
    if foreign:
        raise ValueError(f"{path} takes {foreign[0]!r} from another file, which is not read. Get it again.")
    if total > max(SMALL, PACKED * path.stat().st_size):
        raise ValueError(f"{path} unpacks to {total / 1e9:,.1f} GB, so it may be made to fill the memory.")


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
