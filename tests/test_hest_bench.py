"""The numbers of HEST-Benchmark on a small task, from its own functions, are reproduced."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn

import deepspot as ds

FOLDER = Path(os.environ.get("DEEPSPOT_DATA", "nowhere")).parent / "vectors" / "hest_bench"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="DEEPSPOT_DATA has no vectors of HEST-Bench next to it")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "_hest_protocol.py"


@pytest.fixture(scope="module")
def protocol():
    spec = importlib.util.spec_from_file_location("_hest_protocol", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def mini(protocol):
    task = ds.datasets.hest_bench(FOLDER / "bench_data", "MINI")
    return task, *protocol.load(task, FOLDER / "embeddings" / "MINI" / "random64")


@pytest.fixture(scope="module")
def tolerance():
    """Of r of a gene, and of the mean: the solver stops at its tolerance, so other versions may stop elsewhere."""
    theirs = json.loads((FOLDER / "versions.json").read_text())
    same = any(str(value) == sklearn.__version__ for value in theirs.values())
    return (1e-6, 1e-6) if same else (2e-3, 2e-4)


@pytest.mark.parametrize("name", ["pca32", "nopca", "pca32_raw"])
def test_numbers_of_the_benchmark_are_reproduced(protocol, mini, tolerance, name):
    task, embeddings, counts = mini
    expected = np.load(FOLDER / "expected.npz")
    settings = protocol.PUBLISHED[name]
    folds = protocol.run(embeddings, protocol.to_scale(counts, settings), task.splits, settings)
    r = protocol.pooled(folds)
    np.testing.assert_allclose(r, expected[f"{name}__per_gene_per_fold"], rtol=0, atol=tolerance[0])
    scores = r.mean(axis=0)
    np.testing.assert_allclose(scores, expected[f"{name}__mean_per_split"], rtol=0, atol=tolerance[1])
    assert scores.mean() == pytest.approx(float(expected[f"{name}__pearson_mean"]), abs=tolerance[1])
    assert scores.std() == pytest.approx(float(expected[f"{name}__pearson_std"]), abs=tolerance[1])
    for number, fold in enumerate(folds):
        if f"{name}__fold{number}_targets" in expected:
            np.testing.assert_allclose(fold["measured"], expected[f"{name}__fold{number}_targets"], rtol=1e-6)
        error = ((fold["predicted"] - fold["measured"]) ** 2).mean(axis=0)
        np.testing.assert_allclose(error, expected[f"{name}__fold{number}_l2"], rtol=1e-3)


def test_an_exact_solver_gives_their_exact_numbers(protocol, mini):
    task, embeddings, counts = mini
    expected = np.load(FOLDER / "expected.npz")
    folds = protocol.run(embeddings, protocol.to_scale(counts, protocol.EXACT), task.splits, protocol.EXACT)
    exact = expected["pca32__exact_float64_per_gene_per_fold"]
    # Their exact solution is of features in float64, the benchmark rounds them to float32.
    np.testing.assert_allclose(protocol.pooled(folds), exact, rtol=0, atol=1e-5)
