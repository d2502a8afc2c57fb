import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData, read_zarr

from deepspot._sdata.write import make_table
from deepspot._sdata.zarr_store import check_new_path, lazy_X, write_table_in_blocks


def with_table(slide, genes, **fields):
    """The spots of a slide with a table without values."""
    index, keys = slide.shapes["spots"].index, {"region_key": "region", "instance_key": "spot_id"}
    table = make_table(None, region="spots", instances=index, **keys, var=pd.DataFrame(index=genes), **fields)
    return SpatialData(shapes={"spots": slide.shapes["spots"]}, tables={"t": table})


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        check_new_path(tmp_path / "nowhere" / "a.zarr")


def test_blocks_must_fill_the_table(tmp_path, slide):
    n = len(slide.shapes["spots"])
    sdata = with_table(slide, ["a", "b", "c"])
    with pytest.raises(ValueError, match=f"hold {n - 1} rows, the table {n}"):
        write_table_in_blocks(sdata, "t", [np.zeros((n - 1, 3), np.float32)], tmp_path / "a.zarr")


def test_entries_of_uns_are_those_of_the_table(tmp_path, slide):
    n = len(slide.shapes["spots"])
    own = {"text": "µm", "number": 3, "share": 0.5, "yes": True, "list": np.array(["a", "b"]), "none": {}}
    uns = {"own": {"deeper": own}, "frame": pd.DataFrame({"x": [1, 2]}, index=["r", "s"])}
    sdata = with_table(slide, ["a", "b"], uns=uns)
    table = sdata.tables["t"]
    before = list(table.uns)
    write_table_in_blocks(sdata, "t", [np.zeros((n, 2), np.float32)], tmp_path / "a.zarr")
    assert list(table.uns) == before
    sdata.write(tmp_path / "b.zarr")
    ours, theirs = (read_zarr(tmp_path / name).tables["t"].uns for name in ("a.zarr", "b.zarr"))
    assert ours.keys() == theirs.keys()
    np.testing.assert_equal(ours["own"], theirs["own"])
    pd.testing.assert_frame_equal(ours["frame"], theirs["frame"])
    names = [
        {file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*")} for name in ("a.zarr", "b.zarr")
    ]
    names = [{name for name in of if "uns" in name.parts} for of in names]
    assert names[0] == names[1]


def test_a_block_is_one_file_of_which_a_few_genes_can_be_read(tmp_path, slide, monkeypatch):
    from zarr.storage import LocalStore

    n, genes = len(slide.shapes["spots"]), 1_100
    sdata = with_table(slide, [f"g{i}" for i in range(genes)])
    X = np.random.default_rng(0).random((n, genes), dtype=np.float32)
    write_table_in_blocks(sdata, "t", [X[at : at + 12] for at in range(0, n, 12)], tmp_path / "a.zarr")
    files = [path for path in (tmp_path / "a.zarr/tables/t/X/c").rglob("*") if path.is_file()]
    assert len(files) == -(-n // 12)
    np.testing.assert_array_equal(read_zarr(tmp_path / "a.zarr").tables["t"].X, X)
    read, get = [], LocalStore.get

    async def counted(self, key, *args, **kwargs):
        found = await get(self, key, *args, **kwargs)
        if "/X/c/" in f"/{self.root / key}":
            read.append(0 if found is None else len(found))
        return found

    monkeypatch.setattr(LocalStore, "get", counted)
    np.testing.assert_array_equal(lazy_X(tmp_path / "a.zarr", "t")[:, 1_050].compute(), X[:, 1_050])
    assert 0 < sum(read) < sum(file.stat().st_size for file in files) / 3
