"""An interrupted run resumes, with the same result."""

import functools

import numpy as np
import pandas as pd
import pytest

import deepspot
from deepspot.models._cross_validation.factories import System, describe, plain
from deepspot.models._systems import NULLS, SYSTEMS


class Noisy:
    """Estimator that depends on its seed and can be interrupted."""

    fits = 0
    left = None

    def __init__(self, *, strength=1.0, seed=0):
        self.strength, self.seed = strength, seed

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        if Noisy.left == 0:
            raise KeyboardInterrupt
        Noisy.left = None if Noisy.left is None else Noisy.left - 1
        Noisy.fits += 1
        rng = np.random.default_rng(self.seed)
        x = bags.spot[rows]
        self.weights = np.linalg.lstsq(x.T @ x + self.strength * np.eye(5), x.T @ targets[rows], rcond=None)[0]
        self.weights += 0.01 * rng.normal(size=self.weights.shape)
        return self

    def predict(self, bags):
        return bags.spot @ self.weights


NOISY = System("noisy", Noisy, ({"strength": 0.1}, {"strength": 100.0}))
FITS = 3 * (2 * 2 + 1)


@pytest.fixture(autouse=True)
def _reset():
    Noisy.fits, Noisy.left = 0, None


@pytest.fixture(scope="module")
def data(cohort):
    return cohort(3)


@pytest.fixture
def undisturbed(data, run):
    result = run(data, [NOISY])
    assert Noisy.fits == FITS
    Noisy.fits = 0
    return result


def same(a, b):
    for first, second in zip(a, b, strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.parametrize("killed_after", [0, 3, 4, 5, FITS - 1])
def test_an_interrupted_run_resumes_to_the_same_result(data, run, undisturbed, tmp_path, killed_after):
    Noisy.left = killed_after
    with pytest.raises(KeyboardInterrupt):
        run(data, [NOISY], folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == killed_after
    Noisy.left = None
    same(run(data, [NOISY], folder=tmp_path), undisturbed)
    assert Noisy.fits == FITS
    same(run(data, [NOISY], folder=tmp_path), undisturbed)
    assert Noisy.fits == FITS
    assert len(list(tmp_path.iterdir())) == FITS  # and nothing half written


def test_another_curve_needs_no_new_fit(data, run, tmp_path):
    run(data, [NOISY], folder=tmp_path)
    Noisy.fits = 0
    _, areas = run(data, [NOISY], folder=tmp_path, top=(1,))
    assert Noisy.fits <= 3  # outer folds in which another setting is best by this curve
    _, again = run(data, [NOISY], top=(1,))
    pd.testing.assert_frame_equal(areas, again, check_exact=True)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "exchanged", "text"])
def test_a_damaged_file_is_not_used(data, run, undisturbed, tmp_path, damage, log):
    run(data, [NOISY], folder=tmp_path)
    first, second = sorted(tmp_path.glob("*.npz"))[:2]
    content = first.read_bytes()
    middle = len(content) // 2
    first.write_bytes(
        {
            "truncated": content[:middle],
            "empty": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
            "exchanged": second.read_bytes(),
            "text": b"no result",
        }[damage]
    )
    Noisy.fits = 0
    same(run(data, [NOISY], folder=tmp_path), undisturbed)
    assert Noisy.fits == 1
    assert any(first.name in line and "is repeated" in line for line in log)
    Noisy.fits = 0
    run(data, [NOISY], folder=tmp_path)
    assert Noisy.fits == 0


def _with_counts(slides):
    from dataclasses import replace

    counts = slides[0].counts.copy()
    counts[0, 0] += 1
    return [replace(slides[0], counts=counts), *slides[1:]]


def _with_bags(bags):
    from dataclasses import replace

    spot = bags["P0_S0"].spot.copy()
    spot[0, 0] += 1
    return bags | {"P0_S0": replace(bags["P0_S0"], spot=spot)}


@pytest.mark.parametrize("change", ["seed", "params", "counts", "bags", "genes", "factory", "version", "fits"])
def test_file_names_depend_on_all_input_of_a_fit(data, run, tmp_path, change, monkeypatch):
    slides, bags, centers = data
    plain_system = System("noisy", Noisy)
    run(data, [plain_system], folder=tmp_path)
    assert Noisy.fits == 3
    options = {"folder": tmp_path}
    if change == "seed":
        options["seed"] = 1
    if change == "genes":
        options["genes"] = 19
    if change == "params":
        plain_system = System("noisy", Noisy, ({"strength": 2.0},))
    if change == "factory":
        plain_system = System("noisy", functools.partial(Noisy, strength=2.0))
    if change == "counts":
        slides = _with_counts(slides)
    if change == "bags":
        bags = _with_bags(bags)
    if change == "fits":
        monkeypatch.setattr("deepspot.models._cross_validation.run.FITS", 99)
    if change == "version":
        monkeypatch.setattr("deepspot.models._cross_validation.run.version", lambda _: "99")
    run((slides, bags, centers), [plain_system], **options)
    assert Noisy.fits == 6  # every fold has seen what changed, on one side or the other


def test_finished_fits_are_found_after_a_source_file_moves(data, run, tmp_path, monkeypatch):
    system = System("mean", deepspot.models.TrainingMean)
    first = run(data, [system], folder=tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(deepspot.models.TrainingMean, "__module__", "deepspot.models._elsewhere")
    monkeypatch.setattr(deepspot.models.TrainingMean, "fit", None)  # nothing is fitted again
    same(run(data, [system], folder=tmp_path), first)
    assert {path.name for path in tmp_path.iterdir()} == made


def test_factories_without_a_description_are_errors_with_alternatives():
    def local():
        return Noisy()

    for factory in (lambda: Noisy(), local, Noisy(), functools.partial(local), functools.partial(Noisy, seed=local)):
        with pytest.raises(TypeError, match=r"class or a function at the top of a module, or a functools\.partial"):
            describe(factory)


def test_content_of_a_factory():
    assert describe(Noisy) != describe(functools.partial(Noisy, seed=1)) != describe(functools.partial(Noisy, seed=2))
    assert "left = None" in describe(Noisy)[2]
    assert describe(deepspot.models.Ridge) == ["deepspot", "Ridge", ""]
    makers = [describe(maker) for maker in (*SYSTEMS.values(), *NULLS.values())]
    assert all(makers.count(maker) == 1 for maker in makers)
    assert plain({"a": (1, np.float64(2)), "b": np.arange(2), "c": {"d": None}}) == {
        "a": [1, 2.0],
        "b": [0, 1],
        "c": {"d": None},
    }
