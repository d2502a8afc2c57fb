import logging
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from deepspot._stats import aestetik
from deepspot._stats.oversample import cluster, components, equalize


@pytest.fixture(scope="module")
def planted():
    """Counts of three tissues of 40, 15 and 8 spots, and their array positions."""
    rng = np.random.default_rng(0)
    tissue = np.repeat([0, 1, 2], [40, 15, 8])
    rates = np.full((3, 30), 2.0)
    for number in range(3):
        rates[number, 10 * number : 10 * number + 10] = 20
    array = np.column_stack(np.divmod(np.arange(63), 8))
    return csr_matrix(rng.poisson(rates[tissue])), tissue, array


def test_planted_tissues_are_found_and_repeated(planted):
    counts, tissue, _ = planted
    labels = cluster(counts, seed=0)
    assert labels.shape == (63,)
    assert labels.dtype == np.int64
    assert adjusted_rand_score(labels, tissue) > 0.5
    np.testing.assert_array_equal(cluster(counts, seed=0), labels)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 12])
def test_small_slides(planted, n):
    labels = cluster(planted[0][:n])
    assert labels.shape == (n,)
    assert len(equalize(labels)) >= n


def test_a_slide_with_one_gene_and_an_empty_spot():
    assert cluster(csr_matrix([[1], [0], [2], [3]])).shape == (4,)


def test_components_do_not_depend_on_depth(planted):
    counts = planted[0]
    deep = csr_matrix(counts.multiply(np.arange(1, 64)[:, None]))
    np.testing.assert_allclose(np.abs(components(deep, 0)[:, 0]), np.abs(components(counts, 0)[:, 0]), rtol=1e-3)
    assert components(counts, 0).shape == (63, 30)


def test_aestetik_has_no_side_effects(planted, monkeypatch, tmp_path, capfd):
    pytest.importorskip("aestetik")
    import torch

    monkeypatch.setattr(aestetik, "EPOCHS", 2)
    monkeypatch.setattr(aestetik, "REPEATS", 2)
    monkeypatch.chdir(tmp_path)
    counts, _, array = planted
    before = dict(os.environ), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    level = logging.getLogger("lightning.pytorch").level
    labels = cluster(counts, method="aestetik", array=array, seed=3)
    assert labels.shape == (63,)
    assert dict(os.environ) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert np.random.get_state()[1].tolist() == before[3]  # noqa: NPY002
    assert not torch.backends.cudnn.deterministic
    assert logging.getLogger("lightning.pytorch").level == level
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""
    np.testing.assert_array_equal(cluster(counts, method="aestetik", array=array, seed=3), labels)


def test_arguments(planted):
    counts, _, array = planted
    with pytest.raises(ValueError, match="`method` must be 'leiden' or 'aestetik', got 'kmeans'"):
        cluster(counts, method="kmeans")
    with pytest.raises(ValueError, match="AESTETIK needs the array positions of the spots"):
        cluster(counts, method="aestetik")
    with pytest.raises(ValueError, match="`counts` and `array` must have the same number of rows"):
        cluster(counts, method="aestetik", array=array[:5])


@pytest.mark.parametrize(
    ("package", "method", "extra"), [("igraph", "leiden", "leiden"), ("aestetik", "aestetik", "aestetik")]
)
def test_missing_packages_name_their_extra(planted, monkeypatch, package, method, extra):
    monkeypatch.setitem(sys.modules, package, None)
    counts, _, array = planted
    with pytest.raises(ImportError, match=rf'`pip install "\.\[{extra}\]"`'):
        cluster(counts, method=method, array=array)


@quickly(max_examples=100, deadline=None)
@given(labels=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=50), seed=st.integers(0, 99))
def test_equalize(labels, seed):
    labels = np.array(labels)
    rows = equalize(labels, seed)
    np.testing.assert_array_equal(rows[: len(labels)], np.arange(len(labels)))  # no original is lost
    _, before = np.unique(labels, return_counts=True)
    _, after = np.unique(labels[rows], return_counts=True)
    assert (after == before.max()).all()
    largest = labels == np.unique(labels)[before.argmax()]
    assert len(rows[largest[rows]]) == largest.sum()  # the largest cluster is not drawn again
    np.testing.assert_array_equal(equalize(labels, seed), rows)


def test_draws_are_of_all_members_and_seeded():
    labels = np.repeat([0, 1], [400, 20])
    rows = equalize(labels, 0)
    assert set(rows[420:]) == set(range(400, 420))
    assert not np.array_equal(rows, equalize(labels, 1))
