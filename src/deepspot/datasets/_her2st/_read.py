from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._logging import logger

from ._files import files

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

PITCH_UM = 200.0


def is_raw(folder: Path, section: str) -> bool:
    """Whether a folder holds all files of a section, in the layout of the authors' repository."""
    return all((folder / path).is_file() for path in files(section))


def read_raw(folder: Path, section: str) -> tuple[AnnData, Path, float]:
    """Read a section as its authors publish it: the table, the path of the image, and its µm per pixel."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    counts_path, spots_path, image_path = (folder / path for path in files(section))
    counts = pd.read_csv(counts_path, sep="\t", index_col=0)
    spots = pd.read_csv(spots_path, sep="\t")
    mpp = microns_per_pixel(spots, section)

    spots.index = spots["x"].astype(int).astype(str) + "x" + spots["y"].astype(int).astype(str)
    selected = spots[spots["selected"] == 1]
    selected = selected[selected.index.isin(counts.index)]  # a few spots lie on tissue but were not sequenced
    if len(selected) < len(counts):
        logger.info("%d of %d spots of %s have no position on tissue, and are left out.",
                    len(counts) - len(selected), len(counts), section)  # fmt: skip
    counts = counts.loc[selected.index]

    obs = pd.DataFrame(
        {
            "array_row": selected["y"].astype(int),
            "array_col": selected["x"].astype(int),
            "new_x": selected["new_x"],
            "new_y": selected["new_y"],
        }
    )
    obs.index = pd.Index([f"{section}_{name}" for name in selected.index])
    obs["patient"] = pd.Categorical([section[0]] * len(obs))
    obs["section"] = pd.Categorical([section] * len(obs))
    adata = AnnData(
        csr_matrix(counts.to_numpy(dtype="int32")), obs=obs, var=pd.DataFrame(index=[str(gene) for gene in counts])
    )
    adata.obsm["spatial"] = selected[["pixel_x", "pixel_y"]].to_numpy(dtype=float)
    return adata, image_path, mpp


def microns_per_pixel(spots: pd.DataFrame, section: str) -> float:
    """µm per pixel, from pixel positions and array positions (200 µm apart), by a fit that outliers cannot bend.

    Raises
    ------
    ValueError
        If the two axes disagree by more than 2 %.
    """
    from scipy.stats import theilslopes

    across, down = (PITCH_UM / theilslopes(spots[f"pixel_{axis}"], spots[f"new_{axis}"]).slope for axis in "xy")
    if not abs(across / down - 1) <= 0.02:
        raise ValueError(
            f"The spots of section {section!r} give {across:.4g} µm per pixel along x but {down:.4g} along y. "
            "The spot file does not belong to an undistorted image; compare it with the authors' repository."
        )
    return float(across)  # as in the prepared sections; the axes differ by about 0.6 %


def is_prepared(folder: Path, section: str) -> bool:
    """Whether a folder holds a section cropped to its tissue, as ``<section>.h5ad`` and ``<section>.jpg``."""
    return all((folder / f"{section}{suffix}").is_file() for suffix in (".h5ad", ".jpg"))


def read_prepared(folder: Path, section: str) -> tuple[AnnData, Path, float]:
    """Read a section cropped to its tissue: the table, the path of the image, and its µm per pixel."""
    from anndata import read_h5ad

    adata = read_h5ad(folder / f"{section}.h5ad")
    adata.obs = adata.obs.rename(columns={"x": "array_col", "y": "array_row"})
    mpp = adata.uns["spatial"][section]["metadata"]["microns_per_pixel"]
    return adata, folder / f"{section}.jpg", float(mpp)
