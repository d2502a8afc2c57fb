"""Tasks of published benchmarks, read from a small task in their layout."""

import json
import os
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import deepspot as ds

MINI = Path(os.environ.get("DEEPSPOT_DATA", "nowhere")).parent / "vectors" / "hest_bench" / "bench_data"
pytestmark = pytest.mark.skipif(not MINI.is_dir(), reason="DEEPSPOT_DATA has no vectors of HEST-Bench next to it")
SAMPLES = ["SYN1", "SYN2", "SYN3", "SYN4"]


@pytest.fixture
def copied(tmp_path):
    """A copy of the task that may be damaged."""
    return Path(shutil.copytree(MINI, tmp_path / "bench_data", copy_function=shutil.copyfile))


@pytest.fixture
def stp(tmp_path, copied):
    """The same samples in the layout of STP-Bench, with as many counts as patches, in another order."""
    root = copied / "MINI"
    (root / "adata").rename(root / "st")
    (root / "var_50genes.json").rename(root / "hmhvg_200genes.json")
    for name in SAMPLES:
        with h5py.File(root / "patches" / f"{name}.h5") as file:
            barcodes = [value.decode() for value in file["barcode"][:, 0]]
        table = anndata.read_h5ad(root / "st" / f"{name}.h5ad")
        table[table.obs_names.isin(barcodes)].copy().write_h5ad(root / "st" / f"{name}.h5ad")
    folds = {"fold_0": ["test", "test", "train", "train"], "fold_1": ["train", "train", "test", "train"]}
    pd.DataFrame({"sample_id": SAMPLES, "case_id": ["01", "01", "02", "03"], **folds}).to_csv(root / "ids.csv")
    return copied


def change(path, **parts):
    """Replace parts of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        for name, values in parts.items():
            attributes = dict(file[name].attrs)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)


def test_folds_and_genes():
    task = ds.datasets.hest_bench(MINI, "MINI")
    assert list(task.slides) == ["SYN3", "SYN4", "SYN1", "SYN2"]
    assert task.splits["0"] == [["SYN3", "SYN4"], ["SYN1", "SYN2"]]
    assert {name: fold[1] for name, fold in task.splits.items()} == {
        "0": ["SYN1", "SYN2"],
        "1": ["SYN3"],
        "2": ["SYN4"],
    }
    assert len(task.genes) == 50
    assert task.patients is None
    assert repr(task) == "Benchmark: 4 slides, 50 genes, 3 folds"


def test_counts_are_those_of_the_barcodes_in_the_order_of_patches():
    slide = ds.datasets.hest_bench(MINI, "MINI").slides["SYN2"]
    with h5py.File(MINI / "MINI" / "patches" / "SYN2.h5") as file:
        barcodes = [value.decode() for value in file["barcode"][:, 0]]
    source = anndata.read_h5ad(MINI / "MINI" / "adata" / "SYN2.h5ad")
    table = slide["table"]
    assert table.obs["barcode"].tolist() == barcodes != source.obs_names[: len(barcodes)].tolist()
    np.testing.assert_array_equal(table.X.toarray(), np.asarray(source[barcodes].to_df()))
    # Patches are placed as the spots are, at half of the resolution.
    places = source[barcodes].obsm["spatial"]
    moved = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y]) * 2 - places
    np.testing.assert_allclose(moved, moved[:1].repeat(len(moved), axis=0))


def test_the_image_has_every_patch_at_its_place(tmp_path):
    path = copied_patches(tmp_path, pitch=30)
    from deepspot.datasets._patches import Patches

    patches = Patches.open(path)
    image = patches.image().compute()
    with h5py.File(path) as file:
        for (x, y), patch in zip(patches.corners, file["img"][:], strict=True):
            np.testing.assert_array_equal(image[y : y + 24, x : x + 24], patch)
    assert (image[24:30] == 255).all()
    assert patches.mpp == 0.5
    assert patches.side_um == 12


def test_blocks_of_the_image_agree_with_the_whole(tmp_path, monkeypatch):
    from deepspot.datasets import _patches

    path = copied_patches(tmp_path, pitch=20)
    whole = _patches.Patches.open(path).image().compute()
    monkeypatch.setattr(_patches, "CHUNK", 17)
    np.testing.assert_array_equal(_patches.Patches.open(path).image().compute(), whole)


def copied_patches(folder, pitch):
    """Patches of 24 px in a grid with a pitch in their pixels."""
    path = Path(shutil.copyfile(MINI / "MINI" / "patches" / "SYN1.h5", folder / "SYN1.h5"))
    n = 43
    grid = np.column_stack([np.arange(n) % 7, np.arange(n) // 7]) * 2 * pitch + 1000
    change(path, coords=grid)
    return path


def test_cross_validation_and_embedding_work(mean_color):
    task = ds.datasets.hest_bench(MINI, "MINI")
    cv = ds.models.cross_validate(
        task.slides,
        splits=task.splits,
        genes=task.genes,
        patient_key=task.patients,
        keys={"normalize": "log1p_counts"},
        models=["linear"],
        encoder=mean_color(),
    )
    assert cv.scores["fold"].unique().tolist() == ["0", "1", "2"]
    assert set(cv.scores["gene"]) == set(task.genes)
    slide = task.slides["SYN1"]
    assert set(slide["spots"]["diameter_um"]) == {12.0}  # a tile is a patch
    (features,) = (table for key, table in slide.tables.items() if key != "table")
    assert features.n_obs == slide["table"].n_obs == 43


def test_stp_bench_aligns_by_barcode_although_numbers_agree(stp):
    task = ds.datasets.stp_bench(stp, "MINI")
    assert task.patients == {"SYN1": "01", "SYN2": "01", "SYN3": "02", "SYN4": "03"}
    assert task.splits == {"0": [["SYN3", "SYN4"], ["SYN1", "SYN2"]], "1": [["SYN1", "SYN2", "SYN4"], ["SYN3"]]}
    other = ds.datasets.hest_bench(MINI, "MINI")
    assert task.genes == other.genes
    for name in SAMPLES:
        source = anndata.read_h5ad(stp / "MINI" / "st" / f"{name}.h5ad")
        table = task.slides[name]["table"]
        assert table.n_obs == source.n_obs
        assert table.obs["barcode"].tolist() != source.obs_names.tolist()
        np.testing.assert_array_equal(table.X.toarray(), other.slides[name]["table"].X.toarray())


def test_stp_bench_without_folds_or_cases(stp):
    file = stp / "MINI" / "ids.csv"
    pd.read_csv(file)[["sample_id"]].to_csv(file)
    task = ds.datasets.stp_bench(stp, "MINI")
    assert task.splits is None
    assert task.patients is None
    (stp / "meta").mkdir()
    pd.DataFrame({"sample_id": ["SYN1"], "fold_0": ["validation"]}).to_csv(stp / "meta" / "ids.csv")
    with pytest.raises(FileNotFoundError, match=r"hmhvg_200genes.json, the genes of the task"):
        ds.datasets.stp_bench(stp, "MINI", meta=stp / "meta")
    shutil.copyfile(stp / "MINI" / "hmhvg_200genes.json", stp / "meta" / "g.json")
    with pytest.raises(ValueError, match=r"'validation' in 'fold_0', where only 'train' and 'test'"):
        ds.datasets.stp_bench(stp, "MINI", meta=stp / "meta", gene_file="g.json")


def drop_spot(root):
    path = root / "adata" / "SYN1.h5ad"
    table = anndata.read_h5ad(path)
    table[table.obs_names != "001x007"].copy().write_h5ad(path)


def write_log(root):
    path = root / "adata" / "SYN1.h5ad"
    table = anndata.read_h5ad(path)
    table.X = np.log1p(np.asarray(table.to_df()))
    table.write_h5ad(path)


def truncate(name):
    def do(root):
        path = root / name
        path.write_bytes(path.read_bytes()[:3000])

    return do


DAMAGE = {
    "patch without counts": (drop_spot, ValueError, r"1 of 43 patches of .*SYN1.h5 have no counts.*'001x007'"),
    "no counts": (write_log, ValueError, "holds no raw counts"),
    "truncated patches": (truncate("patches/SYN1.h5"), ValueError, "SYN1.h5 is damaged, incomplete"),
    "truncated counts": (truncate("adata/SYN1.h5ad"), ValueError, "SYN1.h5ad is damaged, incomplete"),
    "no patches": (lambda root: (root / "patches/SYN1.h5").unlink(), FileNotFoundError, "of sample 'SYN1' does not"),
    "no genes": (lambda root: (root / "var_50genes.json").unlink(), FileNotFoundError, "the genes of the task"),
    "wrong genes": (
        lambda root: (root / "var_50genes.json").write_text("[]"),
        ValueError,
        "no list of names in 'genes'",
    ),
    "no JSON": (lambda root: (root / "var_50genes.json").write_text("{"), ValueError, "is damaged"),
    "unknown gene": (
        lambda root: (root / "var_50genes.json").write_text(json.dumps({"genes": ["X"]})),
        KeyError,
        "lacks 1 of 1 genes of the task, first 'X'",
    ),
    "missing side": (
        lambda root: (root / "splits/test_1.csv").rename(root / "splits/x.csv"),
        FileNotFoundError,
        "test_1",
    ),
    "no folds": (lambda root: shutil.rmtree(root / "splits"), FileNotFoundError, "has no folds"),
    "other columns": (
        lambda root: (root / "splits/train_0.csv").write_text("sample,patches_path,expr_path\na,b,c\n"),
        KeyError,
        "`'sample_id'` not found",
    ),
    "path outside": (
        lambda root: (root / "splits/train_0.csv").write_text(
            "sample_id,patches_path,expr_path\nSYN3,../x.h5,adata/SYN3.h5ad\n"
        ),
        ValueError,
        "is outside of",
    ),
    "fewer barcodes": (
        lambda root: change(root / "patches/SYN1.h5", barcode=np.array([["a"]], dtype=object)),
        ValueError,
        "43 patches, 1 barcodes",
    ),
    "repeated barcodes": (
        lambda root: change(root / "patches/SYN1.h5", barcode=np.array([["a"]] * 43, dtype=object)),
        ValueError,
        "several patches of 'a'",
    ),
    "gray patches": (
        lambda root: change(root / "patches/SYN1.h5", img=np.zeros((43, 24, 24), np.uint8)),
        ValueError,
        "square RGB patches",
    ),
}


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_tasks_are_refused(copied, damage, error, message):
    damage(copied / "MINI")
    with pytest.raises(error, match=message):
        ds.datasets.hest_bench(copied, "MINI")


def test_names_are_checked():
    with pytest.raises(FileNotFoundError, match=r"Folders in .*\['MINI'\]"):
        ds.datasets.hest_bench(MINI, "IDC")
    with pytest.raises(ValueError, match="must be the name of a sample"):
        ds.datasets.hest_bench(MINI, "../MINI")
