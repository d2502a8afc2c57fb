import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepspot._sdata.write import make_table


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def add_table():
    """Add a table as `ds.tl.predict` and `ds.tl.correct` make it; `values` (n, genes) in the order of the shapes."""

    def add(sdata, values, genes, key="deepspot_spots", *, shapes_key="spots", kind="prediction", layers=None, **more):
        sdata.tables[key] = make_table(
            np.asarray(values, dtype=np.float32),
            region=shapes_key,
            instances=sdata.shapes[shapes_key].index,
            region_key="region",
            instance_key="spot_id",
            var=pd.DataFrame(index=genes),
            layers={name: np.asarray(layer, dtype=np.float32) for name, layer in (layers or {}).items()},
            uns={"log1p": {}, "deepspot": {"kind": kind, "scale": "log1p of counts per 10,000"}},
            **more,
        )

    return add
