import dask.array as da
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from deepspot.tl._patients.profile import profile

KINDS = {
    "numpy": np.asarray,
    "sparse": csr_matrix,
    "dask": lambda X: da.from_array(X, chunks=(700, 13)),
    "odd chunks": lambda X: da.from_array(X, chunks=((1, 1999), (40,))),
}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).standard_normal((2000, 40)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["mean", "median"])
@pytest.mark.parametrize("some", [False, True])
def test_blocks_give_what_the_whole_gives(X, kind, how, some, monkeypatch):
    monkeypatch.setattr("deepspot.tl._patients.profile.BYTES", 5 * 8 * len(X))  # blocks of five genes
    rows = (np.arange(2000) % 3 == 0) if some else None
    chosen = np.maximum(X if rows is None else X[rows], 0).astype(np.float64)
    found = profile(KINDS[kind](X), how, rows)
    assert found.dtype == np.float32
    assert found.shape == (40,)
    np.testing.assert_allclose(found, getattr(np, how)(chosen, axis=0), rtol=1e-6, atol=1e-7)


def test_a_mean_reads_every_chunk_once(X):
    read = []
    lazy = da.from_array(X, chunks=(500, 20)).map_blocks(lambda block: read.append(block.shape) or block, meta=X[:0])
    profile(lazy, "mean")
    assert sorted(shape for shape in read if shape[0]) == [(500, 20)] * 8


def test_blocks_without_chosen_spots_are_not_read(X):
    def fail(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] > 0:
            raise OSError("was read")
        return block

    lazy = da.from_array(X, chunks=(500, 40)).map_blocks(fail, dtype=X.dtype)
    found = profile(lazy, "mean", np.arange(2000) < 100)
    np.testing.assert_allclose(found, np.maximum(X[:100], 0).mean(axis=0), rtol=1e-5)
    with pytest.raises(OSError, match="was read"):
        profile(lazy, "mean")


@pytest.mark.parametrize("how", ["mean", "median"])
def test_a_gene_that_is_missing_stays_so(X, how):
    lacks = X.copy()
    lacks[3, 7] = np.nan
    assert list(np.flatnonzero(np.isnan(profile(lacks, how)))) == [7]


def test_errors(X):
    with pytest.raises(ValueError, match=r"`how` must be one of \['mean', 'median'\], got 'sum'"):
        profile(X, "sum")
    with pytest.raises(ValueError, match="no spot"):
        profile(X, "mean", np.zeros(2000, bool))
