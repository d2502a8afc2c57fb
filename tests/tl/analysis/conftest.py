import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from spatialdata import deepcopy

import deepspot as ds


@pytest.fixture(scope="session")
def toy_classes():
    """A slide whose measured genes are on the log scale, with the class of every spot."""
    sdata = ds.datasets.toy(1, 1, n_rows=8, n_cols=9)["P1_S1"]
    table = sdata["table"]
    table.layers["counts"] = table.X.copy()
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    names = np.array(list(table.uns["composition"]))
    table.obs["class"] = pd.Categorical(names[np.asarray(table.obsm["composition"]).argmax(axis=1)])
    return sdata


@pytest.fixture
def classes(toy_classes):
    return deepcopy(toy_classes)
