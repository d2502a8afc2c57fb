"""Small files in the published layouts, made of a toy slide."""

import gzip
import json
import shutil
import zipfile
from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData

from deepspot import settings
from deepspot._spatial.transforms import centers_px, microns_per_pixel

META = {
    "pixel_size_um_embedded": 0.2125,
    "spot_diameter": 55.0,
    "inter_spot_dist": 100.0,
    "dataset_title": "A study of toys",
    "organ": "Breast",
    "disease_state": "Cancer",
    "oncotree_code": "IDC",
    "species": "Homo sapiens",
    "patient": "Patient 5",
    "st_technology": "Visium",
    "treatment_comment": float("nan"),
}
SLIDE = "TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-CDBC"
SIDE, STEP, SHRUNK = 40, 60, 10


def write_pyramid(path, image, *, mpp=None):
    """A tiled TIFF of two levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for number in range(2):
            level = image[:: 2**number, :: 2**number]
            file.write(level, tile=(256, 256), photometric="rgb", subfiletype=number, **scale)


class Toy:
    """Pixels, counts and positions of a toy slide."""

    def __init__(self, sdata, name):
        self.image = sdata.images[f"{name}_image"].to_numpy().transpose(1, 2, 0)
        self.mpp = microns_per_pixel(sdata, f"{name}_image")
        self.table = sdata.tables["table"]
        self.centers = centers_px(sdata, f"{name}_image", "spots")

    def adata(self, **changes):
        """A table as HEST has it."""
        obs = self.table.obs[["array_row", "array_col"]].copy()
        obs["in_tissue"] = 1
        obs["pxl_col_in_fullres"], obs["pxl_row_in_fullres"] = self.centers.T
        adata = AnnData(self.table.X.astype(np.float32), obs=obs, var=pd.DataFrame(index=self.table.var_names))
        adata.obsm["spatial"] = self.centers.copy()
        small = {"images": {"downscaled_fullres": self.image[::8, ::8]}, "scalefactors": {"spot_diameter_fullres": 9.0}}
        adata.uns["spatial"] = {"ST": small}
        for name, value in changes.items():
            setattr(adata, name, value)
        return adata

    def authors(self, shrunk=1.0):
        """A table as the authors of DeepSpot have it: their x runs down."""
        adata = self.adata()
        renamed = {"array_row": "x_array", "array_col": "y_array"}
        adata.obs = adata.obs.rename(columns=renamed).drop(columns=["pxl_col_in_fullres", "pxl_row_in_fullres"])
        adata.obs["y_pixel"], adata.obs["x_pixel"] = (self.centers / shrunk).T
        adata.obsm["spatial"] = self.centers / shrunk / 4
        adata.X = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
        return adata


@pytest.fixture(scope="session")
def toys(toy):
    return {name: Toy(sdata, name) for name, sdata in toy.items()}


@pytest.fixture
def toy_files(toys):
    return toys["P1_S1"]


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No data and an empty cache; returns the cache."""
    monkeypatch.delenv("DEEPSPOT_DATA", raising=False)
    monkeypatch.setattr(settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hub(nothing_here, tmp_path, monkeypatch):
    """A folder in place of Hugging Face, and the requests: (repository, path, token)."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    served = SimpleNamespace(folder=tmp_path / "hub", asked=[], error=None)

    def download(repo, path, *, repo_type, local_dir, token):
        assert repo_type == "dataset"
        served.asked.append((repo, path, token))
        if served.error is not None:
            raise served.error
        if not (served.folder / path).is_file():
            raise EntryNotFoundError("404")
        (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(served.folder / path, local_dir / path))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return served


@pytest.fixture
def web(nothing_here, tmp_path, monkeypatch):
    """A folder from which pooch downloads the path of a URL, and the requested URLs."""
    import pooch

    served = SimpleNamespace(folder=tmp_path / "web", asked=[])

    def download(self, url, output_file, pooch):
        served.asked.append(url)
        parts = PurePosixPath(url).parts
        paths = [served.folder.joinpath(*parts[at:]) for at in range(1, len(parts))]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ConnectionError("no route to host")
        shutil.copy(path, output_file)

    def load_registry(self):
        for path in served.folder.iterdir():
            self.registry[path.name] = f"md5:{pooch.file_hash(str(path), alg='md5')}"

    for kind in (pooch.HTTPDownloader, pooch.DOIDownloader):
        monkeypatch.setattr(kind, "__call__", download)
    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", load_registry)
    return served


@pytest.fixture
def write_hest(nothing_here, toy_files):
    """Write a sample of HEST-1k to a folder, and return the folder."""

    def write(folder, sample="TOY1", *, toy=toy_files, adata=None, meta=None, mpp=None):
        write_pyramid(folder / "wsis" / f"{sample}.tif", toy.image, mpp=mpp or toy.mpp)
        for name in ("st", "metadata"):
            (folder / name).mkdir(exist_ok=True)
        (toy.adata() if adata is None else adata).write_h5ad(folder / "st" / f"{sample}.h5ad")
        said = META | {"pixel_size_um_estimated": toy.mpp * 1.002} | (meta or {})
        said = {key: value for key, value in said.items() if value != "absent"}
        (folder / "metadata" / f"{sample}.json").write_text(json.dumps(said))
        return folder

    return write


@pytest.fixture
def predicted(toy_files):
    """A predicted slide as in the authors' TCGA data, on their grid, at 40x."""
    image = toy_files.image
    rows = range(SIDE + 1, image.shape[0] - SIDE - 1, STEP)
    columns = range(SIDE + 1, image.shape[1] - SIDE - 1, STEP)
    places = [(i, j, x, y) for i, x in enumerate(rows) for j, y in enumerate(columns) if (i + j) % 5]
    obs = pd.DataFrame(places, columns=["x_array", "y_array", "x_pixel", "y_pixel"])
    obs.index = obs.index.astype(str)
    obs["barcode"] = obs.index
    obs["is_white"] = 150.5
    obs["predicted_label"] = pd.Categorical(["Tumor cells"] * len(obs))
    obs["Tumor cells Probability"] = 0.5
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(12)]
    var = pd.DataFrame({"bulk_tpm_unstranded": np.arange(12.0)}, index=genes)
    adata = AnnData(rng.normal(1.5, 1.0, (len(obs), 12)), obs=obs, var=var)
    adata.obsm["spatial"] = obs[["y_pixel", "x_pixel"]].to_numpy() / SHRUNK
    adata.uns["spatial"] = {"library_id": {"images": {"hires": image[::SHRUNK, ::SHRUNK]}}}
    return adata


@pytest.fixture
def write_tcga(nothing_here, predicted):
    """Write a predicted slide, compressed, and return its path."""

    def write(folder, adata=predicted, *, inside=f"TCGA_SKCM/FFPE/{SLIDE}.h5ad.gz"):
        path = folder / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = path.with_suffix("")
        adata.write_h5ad(plain)
        path.write_bytes(gzip.compress(plain.read_bytes(), 1))
        plain.unlink()
        return path

    return write


@pytest.fixture
def archive_of(nothing_here, toy_files, tmp_path):
    """Write the Zenodo archive with the given sections."""

    def write(folder, *samples):
        folder.mkdir(parents=True, exist_ok=True)
        table, image = tmp_path / "section.h5ad", tmp_path / "section.tif"
        adata = toy_files.authors()
        adata.obs["ground_truth"] = pd.Categorical(["TLS", "TUM"] * (adata.n_obs // 2))
        adata.write_h5ad(table)
        write_pyramid(image, toy_files.image)
        with zipfile.ZipFile(folder / "TLS_VISIUM_USZ.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for sample in samples:
                archive.write(table, f"TLS_VISIUM_USZ/h5ad_preprocessed/{sample}.h5ad")
                archive.write(image, f"TLS_VISIUM_USZ/tif_slides/{sample}.tif")
        return folder

    return write
