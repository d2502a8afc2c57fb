import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

from deepspot._sdata.write import make_table
from deepspot._sdata.zarr_store import check_new_path, write_atomically, write_table_in_blocks


def fail(out, **options):
    with write_atomically(out, **options) as draft:
        draft.mkdir()
        raise RuntimeError


def test_store_is_renamed_when_complete(tmp_path):
    out = tmp_path / "a.zarr"
    with write_atomically(out) as draft:
        draft.mkdir()
        assert not out.exists()
    assert out.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(RuntimeError):
        fail(tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_existing_store_is_kept_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "a.zarr"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(FileExistsError, match=r"a\.zarr' exists. Pass `overwrite=True`"), write_atomically(out):
        pass
    with pytest.raises(RuntimeError):
        fail(out, overwrite=True)
    assert (out / "old").exists()
    with write_atomically(out, overwrite=True) as draft:
        draft.mkdir()
    assert not list(out.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        check_new_path(tmp_path / "nowhere" / "a.zarr")


def test_blocks_must_fill_the_table(tmp_path, slide):
    n = len(slide.shapes["spots"])
    table = make_table(
        None,
        region="spots",
        instances=slide.shapes["spots"].index,
        region_key="region",
        instance_key="spot_id",
        var=pd.DataFrame(index=["a", "b", "c"]),
    )
    sdata = SpatialData(shapes={"spots": slide.shapes["spots"]}, tables={"t": table})
    with pytest.raises(ValueError, match=f"hold {n - 1} rows, the table {n}"):
        write_table_in_blocks(sdata, "t", [np.zeros((n - 1, 3), np.float32)], tmp_path / "a.zarr")
