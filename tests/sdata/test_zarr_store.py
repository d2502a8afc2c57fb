import numpy as np
import pytest

from deepspot._sdata.zarr_store import check_new_path, write_atomically


def fail(out, **options):
    with write_atomically(out, **options) as draft:
        draft.mkdir()
        raise RuntimeError


def test_it_gets_its_name_when_it_is_whole(tmp_path):
    out = tmp_path / "a.zarr"
    with write_atomically(out) as draft:
        draft.mkdir()
        assert not out.exists()
    assert out.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_after_an_error_there_is_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        fail(tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path):
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


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        check_new_path(tmp_path / "nowhere" / "a.zarr")


def test_blocks_have_to_fill_the_table(tmp_path, slide):
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot._sdata.write import make_table
    from deepspot._sdata.zarr_store import write_table_in_blocks

    n = len(slide.shapes["spots"])
    table = make_table(
        None,
        region="spots",
        instances=slide.shapes["spots"].index,
        region_key="region",
        instance_key="spot_id",
        var=AnnData(np.zeros((1, 3))).var,
    )
    sdata = SpatialData(shapes={"spots": slide.shapes["spots"]}, tables={"t": table})
    with pytest.raises(ValueError, match=f"hold {n - 1} rows, the table {n}"):
        write_table_in_blocks(sdata, "t", [np.zeros((n - 1, 3), np.float32)], tmp_path / "a.zarr")
