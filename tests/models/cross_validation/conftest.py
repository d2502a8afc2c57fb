import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from deepspot._features.bags import Bags
from deepspot.models._cross_validation.factories import System
from deepspot.models._cross_validation.folds import plan_folds
from deepspot.models._cross_validation.run import Runner
from deepspot.models._training.slides import MeasuredSlide


class LeastSquares:
    """Regularized least squares."""

    def __init__(self, *, strength=1.0):
        self.strength = strength

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        x, y = bags.spot[rows].astype(float), np.nan_to_num(targets[rows].astype(float))
        self.mean, self.shift = x.mean(axis=0), y.mean(axis=0)
        x = x - self.mean
        self.weights = np.linalg.solve(x.T @ x + self.strength * np.eye(x.shape[1]), x.T @ (y - self.shift))
        return self

    def predict(self, bags):
        return (bags.spot - self.mean) @ self.weights + self.shift


class Mean:
    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        self.mean = np.nanmean(targets[rows], axis=0)
        return self

    def predict(self, bags):
        return np.tile(self.mean, (len(bags), 1))


@pytest.fixture(scope="session")
def least_squares():
    return LeastSquares


@pytest.fixture(scope="session")
def mean_only():
    return Mean


@pytest.fixture(scope="session")
def cohort():
    """Slides with counts that follow the embedding, their bags and centers."""

    def make(n_patients=4, n_slides=1, *, n_spots=40, n_genes=30, signal=0.6, seed=0):
        rng = np.random.default_rng(seed)
        weights = signal * rng.normal(size=(5, n_genes))
        level = rng.uniform(2, 4, size=n_genes)
        slides, bags, centers = [], {}, {}
        for number in range(n_patients * n_slides):
            patient = number // n_slides
            name = f"P{patient}_S{number % n_slides}"
            spot = rng.normal(size=(n_spots, 5)).astype(np.float32)
            counts = csr_matrix(rng.poisson(np.exp(level + spot @ weights)))
            slides.append(
                MeasuredSlide(
                    name=name,
                    table_key="table",
                    layer=None,
                    counts=counts,
                    genes=pd.Index([f"g{i}" for i in range(n_genes)]),
                    rows=np.arange(n_spots),
                    table_rows=np.arange(n_spots),
                    patient=f"P{patient}",
                )
            )
            bags[name] = Bags(spot, spot[:, None], csr_matrix((n_spots, n_spots), dtype=bool))
            centers[name] = np.column_stack([np.arange(n_spots), np.zeros(n_spots)])
        return slides, bags, centers

    return make


@pytest.fixture(scope="session")
def planned():
    """Folds of a cohort, cached because the choice of genes is slow."""
    kept = {}

    def plan(cohort, genes=20, tune=True):
        key = (id(cohort), genes, tune)
        if key not in kept:
            kept[key] = cohort, plan_folds(cohort[0], cohort[2], genes, tune=tune)
        return kept[key][1]

    return plan


@pytest.fixture(scope="session")
def run(planned):
    """Cross-validate arrays: table and inner areas."""

    def do(cohort, systems, *, genes=20, top=(5, 10, 20), folder=None, seed=0):
        tuned = any(len(system.grid) > 1 for system in systems)
        folds = planned(cohort, genes, tuned)
        scores, _, inner = Runner(systems, cohort[1], folder, top, seed).run(folds)
        return scores, inner

    return do


@pytest.fixture(scope="session")
def tuned():
    """Least squares of several strengths."""
    return System("ls", LeastSquares, tuple({"strength": s} for s in (0.1, 10.0, 1000.0)))
