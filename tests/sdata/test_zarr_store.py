import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

from deepspot._sdata.write import make_table
from deepspot._sdata.zarr_store import check_new_path, write_table_in_blocks


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
