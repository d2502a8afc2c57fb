from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .plan import Plan

if TYPE_CHECKING:
    from spatialdata import SpatialData

ZARR = ("zarr.json", ".zgroup", ".zattrs")


def read_slide(plan: Plan) -> SpatialData:
    """Read a slide, whatever of the three kinds it is.

    Raises
    ------
    ValueError
        If it is none of them, or `image` and `mpp` are missing or of no use.
    """
    path = plan.slide
    if path.is_dir() and (path.suffix == ".zarr" or any((path / name).is_file() for name in ZARR)):
        return _zarr(plan)
    if path.is_dir() and (path / "spatial").is_dir():
        from deepspot.io import visium

        return visium(path, fullres_image_file=_image(plan, "Space Ranger does not copy it").resolve(), mpp=plan.mpp)
    if path.is_file() and path.suffix == ".h5ad":
        from anndata import read_h5ad

        from deepspot.io import from_anndata

        image = _image(plan, "an .h5ad does not hold it")
        try:
            return from_anndata(read_h5ad(path), image, mpp=plan.mpp)
        except ValueError as error:
            if plan.mpp is None and "mpp" in str(error):
                error.add_note("On the command line: --mpp.")
            raise
    raise ValueError(
        f"{str(path)!r} is no slide that can be read: neither a SpatialData (.zarr), nor a folder of Space Ranger "
        "(with a folder 'spatial'), nor an .h5ad. Read it with `ds.io` or spatialdata-io, and `write` it as a .zarr."
    )


def _zarr(plan: Plan) -> SpatialData:
    from spatialdata import read_zarr

    if plan.image is not None or plan.mpp is not None:
        raise ValueError(
            "--image and --mpp are for an .h5ad or a folder of Space Ranger. A SpatialData has its image, and its "
            "scale is stated with `ds.pp.set_scale`."
        )
    return read_zarr(plan.slide)


def _image(plan: Plan, why: str) -> Path:
    if plan.image is None:
        raise ValueError(f"The full-resolution H&E image is missing: {why}. Name its file with --image.")
    return plan.image
