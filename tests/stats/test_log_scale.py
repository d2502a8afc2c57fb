import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from deepspot._stats.log_scale import log_expression

VALUES = np.array([[0.5, -0.25, 1.5], [0.0, 2.5, np.nan]], np.float32)


def table(X, **fields):
    return AnnData(X, var=pd.DataFrame(index=["a", "b", "c"]), **({"uns": {"log1p": {}}} | fields))


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_genes_with_missing_values_are_left_out_and_nothing_is_changed(kind):
    made = table(kind(VALUES))
    X, known = log_expression(made, "t", None, None)
    assert known.tolist() == [True, True, False]
    np.testing.assert_array_equal(X.toarray() if issparse(X) else X, VALUES[:, :2])
    paper, _ = log_expression(made, "t", None, "paper")
    np.testing.assert_array_equal(paper, [[1.5, 1], [1, 3.5]])
    X[0, 0] = 9
    assert made.X[0, 0] == 0.5


def test_layers_may_be_on_the_log_scale_or_not():
    made = table(VALUES, layers={"counts": np.array([[3.0, 0, 1], [0, 2, 0]]), "flat": np.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"Layer 'counts' of table 't' holds whole numbers"):
        log_expression(made, "t", "counts", None)
    assert log_expression(made, "t", "flat", None)[1].all()


def test_invalid_tables_are_refused():
    with pytest.raises(ValueError, match="X of table 't' is empty"):
        log_expression(AnnData(obs=pd.DataFrame(index=["1"])), "t", None, None)
    with pytest.raises(ValueError, match="missing values for all genes"):
        log_expression(table(np.full((2, 3), np.nan)), "t", None, None)
    twice = table(VALUES)
    twice.var_names = ["a", "a", "b"]
    with pytest.raises(ValueError, match=r"not unique. Call `var_names_make_unique`"):
        log_expression(twice, "t", None, None)
