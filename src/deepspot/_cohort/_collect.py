"""The pseudobulk profiles of all slides in one file, built again from the finished slides whenever it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot import _keys
from deepspot.models._fitted import expected_r

from ._folder import Folder
from ._one_slide import HOW, PROFILE, TABLE
from ._run_table import DONE, RunTable

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot.models import DeepSpot
    from deepspot.models._card import ModelCard


def collect(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> AnnData:
    """Profiles (slides, genes) of the slides that are done, with their rows of the manifest as `obs`."""
    import zarr
    from anndata import AnnData

    card: ModelCard = model.card  # type: ignore[assignment]
    done = table.frame[table.frame["status"] == DONE]
    rows = [
        zarr.open_array(folder.slide(str(name)) / "tables" / TABLE / "var" / PROFILE, mode="r")[:]
        for name in done.index
    ]
    obs = manifest.loc[done.index].assign(
        slide=done.index,
        spots=done["spots"].to_numpy(dtype=np.int64),
        ood_share=done["ood_share"].to_numpy(dtype=np.float64),
    )
    obs.index.name = None
    X = np.asarray(rows, dtype=np.float32).reshape(len(done), len(card.genes))
    made = {
        "kind": _keys.PSEUDOBULK, "how": HOW, "scale": card.scale, "model": card.name, "fingerprint": model.fingerprint,
    }  # fmt: skip
    return AnnData(X, obs=obs, var=expected_r(card), uns={_keys.UNS: made, "log1p": {}})


def save(folder: Folder, manifest: pd.DataFrame, table: RunTable, model: DeepSpot) -> None:
    """Write the profiles; a file that was there stays whole until the new one is."""
    with folder.writing(folder.pseudobulk) as draft:
        draft.write_bytes(_as_h5ad(collect(folder, manifest, table, model)))


def _as_h5ad(profiles: AnnData) -> bytes:
    """An h5ad file, made in memory: HDF5 cannot close a file on a full disk, and says so in ways of its own."""
    import h5py
    from anndata.io import write_elem

    profiles.strings_to_categoricals()
    with h5py.File("profiles", "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", profiles)
        file.flush()
        return file.id.get_file_image()
