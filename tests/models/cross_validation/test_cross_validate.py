import functools

import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot._stats.agreement import OF_VALUES
from deepspot.models._cross_validation.cross_validate import cross_validate
from deepspot.models._cross_validation.measures import BY_GENE
from deepspot.models._cross_validation.result import CrossValidation

NULLS = ["training mean", "position only", "shuffled images"]


class LeastSquares:
    """Regularized least squares."""

    fits = 0
    left = None

    def __init__(self, *, strength=1.0, seed=0):
        self.strength, self.seed = strength, seed

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        if LeastSquares.left == LeastSquares.fits:
            raise KeyboardInterrupt
        LeastSquares.fits += 1
        x, y = bags.spot[rows].astype(float), np.nan_to_num(targets[rows].astype(float))
        self.mean, self.scale, self.shift = x.mean(axis=0), x.std(axis=0) + 1e-9, y.mean(axis=0)
        x = (x - self.mean) / self.scale
        self.weights = np.linalg.solve(x.T @ x + self.strength * np.eye(x.shape[1]), x.T @ (y - self.shift))
        return self

    def predict(self, bags):
        return (bags.spot - self.mean) / self.scale @ self.weights + self.shift


@pytest.fixture(autouse=True)
def _reset():
    LeastSquares.fits, LeastSquares.left = 0, None


@pytest.fixture(scope="module")
def embedded(mean_color):
    """Three patients, embedded: none of these tests changes them further."""
    slides = ds.datasets.toy(3, 1, n_rows=5, n_cols=6)
    for sdata in slides.values():
        ds.pp.embed(sdata, mean_color())
    return slides


@pytest.fixture
def quick(cheap_encoder):
    return {
        "patient_key": "patient",
        "models": {"ls": LeastSquares},
        "genes": 15,
        "top": (5, 10, 100),
        "seed": 0,
        "encoder": cheap_encoder,
    }


@pytest.fixture(scope="module")
def cv(embedded, mean_color):
    return cross_validate(
        embedded,
        patient_key="patient",
        models={"ls": LeastSquares, "ridge": "ridge"},
        genes=15,
        top=(5, 10, 100),
        encoder=mean_color(),
        grid={"ls": {"strength": [1.0, 30.0, 1e9]}},
    )


def test_models_are_compared_on_held_out_patients(cv):
    assert isinstance(cv, CrossValidation)
    assert list(cv.summary().index) == ["ls", "ridge", *NULLS]
    assert list(cv.summary()["null"]) == [False, False, True, True, True]
    assert set(cv.scores["fold"]) == {"P1", "P2", "P3"}
    assert (cv.scores["fold"].astype(str) == cv.scores["patient"].astype(str)).all()
    assert len(cv.scores) == 5 * 3 * 15
    assert cv.slides == {"P1_S1": "P1", "P2_S1": "P2", "P3_S1": "P3"}
    assert list(cv.curve()["n"].unique()) == [5, 10, 15]


def test_parameters_are_chosen_on_the_inner_folds(cv):
    assert len(cv.inner) == 3 * 3 * 2  # settings, outer folds, inner patients
    assert set(cv.inner["model"]) == {"ls"}
    assert cv.chosen("ls")["strength"] in (1.0, 30.0)
    model = cv.estimator("ls")
    assert (type(model), model.strength) == (LeastSquares, cv.chosen("ls")["strength"])


def test_one_setting_needs_no_inner_folds(embedded, quick):
    found = cross_validate(embedded, **quick)
    assert LeastSquares.fits == 3
    assert len(found.inner) == 0


def test_only_features_are_added(slides, quick):
    cross_validate(slides, **quick)
    assert all(sorted(sdata.tables) == ["mean_color_spots", "table"] for sdata in slides.values())


def test_the_same_seed_gives_the_same_table(embedded, quick):
    models = {"models": ["random_forest"], "grid": {"random_forest": {"n_trees": [3]}}}
    a, b, c = (cross_validate(embedded, **{**quick, **models, "seed": seed}).scores for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    forest = a["model"] == "random_forest"
    assert not np.allclose(a.loc[forest, "r"], c.loc[forest, "r"])


@pytest.mark.parametrize(("out", "where"), [(".", "is a store"), ("new/run", "is inside the store")])
def test_out_in_a_store_is_refused_before_anything(embedded, quick, tmp_path, out, where):
    (tmp_path / "zarr.json").touch()
    with pytest.raises(ValueError, match=where):
        cross_validate(embedded, **quick, out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["zarr.json"]
    assert LeastSquares.fits == 0


def test_a_killed_run_resumes(embedded, quick, tmp_path):
    options = {**quick, "grid": {"ls": {"strength": [1.0, 30.0]}}}
    expected = cross_validate(embedded, **options)
    total, LeastSquares.fits, LeastSquares.left = LeastSquares.fits, 0, 8
    with pytest.raises(KeyboardInterrupt):
        cross_validate(embedded, **options, out=tmp_path / "run")
    assert LeastSquares.fits == 8
    LeastSquares.left = None
    found = cross_validate(embedded, **options, out=tmp_path / "run")
    assert LeastSquares.fits == total == 3 * (2 * 2 + 1)
    pd.testing.assert_frame_equal(found.scores, expected.scores, check_exact=True)
    pd.testing.assert_frame_equal(found.inner, expected.inner, check_exact=True)


def test_held_out_slides_give_a_warning(quick, mean_color, log):
    slides = ds.datasets.toy(1, 3, n_rows=5, n_cols=6)
    found = cross_validate(slides, **{**quick, "leave_out": "slide"})
    assert sum("does not measure accuracy" in line for line in log) == 1
    assert set(found.scores["fold"]) == set(slides)
    assert found.leave_out == "slide"
    assert "does not measure accuracy on other patients" in found.summary().attrs["note"]


def test_all_genes_of_a_small_panel_are_taken(embedded, quick, log):
    """The default of 5,000 genes is more than a panel of Xenium has."""
    found = cross_validate(embedded, **{**quick, "genes": 5000})
    assert set(found.scores["gene"]) == set(embedded["P1_S1"]["table"].var_names)
    assert sum("fewer than `genes` = 5,000, so all of them are taken" in line for line in log) == 1


def test_with_two_patients_inner_folds_are_within_one_slide(toy, quick):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    found = cross_validate(slides, **{**quick, "grid": {"ls": {"strength": [1.0, 30.0]}}})
    assert len(found.inner) == 2 * 2 * 3
    assert "only 2 folds" in found.summary().attrs["note"]


def test_mixed_panels(embedded, quick):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in embedded.items()}
    table = slides["P2_S1"].tables["table"]
    del slides["P2_S1"].tables["table"]
    slides["P2_S1"].tables["table"] = table[:, 5:].copy()
    named = list(table.var_names[:10])
    found = cross_validate(slides, **{**quick, "genes": named}).scores
    found = found[found["model"] == "ls"]
    lost = found[(found["slide"] == "P2_S1") & found["gene"].isin(named[:5])]
    assert (lost["undefined"] == "measurement").all()
    assert len(lost) == 5
    assert (found.loc[found["slide"] != "P2_S1", "undefined"] == "no").all()


def test_tiles_are_read_only_if_requested(embedded, quick, monkeypatch):
    from deepspot.models._training.plan import SlidePlan

    for model in ("stnet_finetuned", functools.partial(ds.models.HisToGene, inputs="tiles")):
        with pytest.raises(ValueError, match=r"Model 'pixels' learns from pixels.*'tiles_px': 224"):
            cross_validate(embedded, **{**quick, "models": {"pixels": model}})

    def embed(self, **options):
        raise InterruptedError(options)

    monkeypatch.setattr(SlidePlan, "embed", embed)
    with pytest.raises(InterruptedError, match="'tiles_px': 32"):
        cross_validate(embedded, **quick, tiles={"tiles_px": 32})
    with pytest.raises(InterruptedError) as error:
        cross_validate(embedded, **quick)
    assert error.value.args[0]["tiles_px"] is None


def test_models_on_whole_slides(embedded, quick):
    small = {
        "histogene": {"dim": [16], "layers": [1], "heads": [2]},
        "hist2st": {"dim": [16], "layers": [1], "heads": [2]},
    }
    grid = {name: values | {"epochs": [3], "lr": [1e-3]} for name, values in small.items()}
    cv = cross_validate(embedded, **{**quick, "models": list(grid)}, grid=grid)
    assert cv.scores.loc[cv.scores["model"].isin(grid), "r"].notna().all()


class Spy:
    """Mean of the training targets; keeps what it is fitted to."""

    seen: list = []  # noqa: RUF012 - emptied by the test

    def __init__(self, *, shift=0.0):
        self.shift = shift

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        Spy.seen.append((bags, targets, rows))
        self.weights = np.linalg.lstsq(bags.spot[rows], np.nan_to_num(targets[rows]), rcond=1e-3)[0]
        return self

    def predict(self, bags):
        return bags.spot @ self.weights + self.shift


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ({"tiles": {"radius_um": 1000, "max_neighbors": 20}}, lambda bags, targets, rows: bags.neighbors.nnz),
        ({"tiles": {"subspots": False}}, lambda bags, targets, rows: bags.subspots is None),
        ({"normalize": "log1p_counts"}, lambda bags, targets, rows: np.nanmax(targets)),
    ],
)
def test_a_grid_can_change_the_data(slides, quick, setting, changed):
    Spy.seen = []
    ((name, value),) = setting.items()
    models = {"same": Spy, "other": Spy}
    cv = cross_validate(slides, **{**quick, "models": models}, grid={"other": {name: [value]}})
    same, other = Spy.seen[:2]
    assert changed(*same) != changed(*other)
    assert cv.grid["other"] == [setting]
    assert cv.scores.loc[cv.scores["model"] == "other", "r"].notna().any()
    assert cv.estimator("other").shift == 0.0


def test_a_grid_can_change_the_encoder(slides, quick, mean_color, monkeypatch):
    Spy.seen = []
    other = mean_color("other", "inverted colors")
    encode = other.encode
    monkeypatch.setattr(other, "encode", lambda tiles: 8 - encode(tiles))
    models = {"same": Spy, "other": Spy}
    cross_validate(slides, **{**quick, "models": models}, grid={"other": {"encoder": [other]}})
    assert not np.array_equal(Spy.seen[0][0].spot, Spy.seen[1][0].spot)
    assert all(len(sdata.tables) == 3 for sdata in slides.values())  # counts and two feature tables


def test_data_are_chosen_on_the_inner_folds(slides, quick):
    Spy.seen = []
    grid = {"ls": {"tiles": [{"radius_um": 200}, {"radius_um": 600}], "shift": [0.0, 1.0]}}
    cv = cross_validate(slides, **{**quick, "models": {"ls": Spy}}, grid=grid)
    assert len(cv.inner) == 4 * 3 * 2
    assert cv.chosen("ls")["tiles"] in ({"radius_um": 200}, {"radius_um": 600})
    # Settings with the same data share it: two radii in three inner folds of two folds, and the two folds.
    assert len({id(bags) for bags, _, _ in Spy.seen}) == 2 * 3 * 2 + 2


def test_subspots_are_optional_for_models_without_them(slides, quick):
    cross_validate(
        slides,
        **{**quick, "models": {"ridge": functools.partial(ds.models.Ridge, context=("spot",))}},
        tiles={"subspots": False},
    )
    (added,) = {key for sdata in slides.values() for key in sdata.tables} - {"table"}
    assert all("subspots" not in sdata.tables[added].obsm for sdata in slides.values())


@pytest.mark.parametrize("model", ["ridge", "deepspot"])
def test_a_model_that_needs_sub_spots_is_refused_before_anything_is_embedded(slides, quick, model):
    with pytest.raises(ValueError, match=f"{model!r} uses sub-spots"):
        cross_validate(slides, **{**quick, "models": [model]}, tiles={"subspots": False})
    assert all(list(sdata.tables) == ["table"] for sdata in slides.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": ["deepspot", "rigde"]}, KeyError, "ridge_pca"),
        ({"models": "ridge"}, TypeError, r"\['ridge'\]"),
        ({"models": []}, ValueError, "Name some of"),
        ({"models": {"training mean": LeastSquares}}, ValueError, "always run"),
        ({"models": {"x": 3}}, TypeError, "must be a class"),
        ({"models": {"x": dict}}, TypeError, "lacks `fit"),
        ({"grid": {"ridge": {}}}, KeyError, "'ls'"),
        ({"grid": {"ls": {"weight": [1]}}}, TypeError, r"has no parameters \['weight'\]. Parameters: \['strength'"),
        ({"leave_out": "spot"}, ValueError, '"patient" or "slide"'),
        ({"tiles": {"tile": 55}}, ValueError, r"tile: .* Fields: \['tile_um', "),
        ({"keys": ["table"]}, TypeError, "must be a SlideKeys or a mapping with some of"),
        ({"genes": 2.5}, TypeError, "number or a list"),
        ({"top": ()}, ValueError, "`top` is empty"),
        ({"top": (0, 5)}, ValueError, "`top` must be at least 1"),
        ({"genes": 0}, ValueError, "`genes` must be at least 1"),
        ({"genes": 5000, "min_detected": 1.0}, ValueError, r"too few spots .*`min_detected="),
        ({"genes": ["TP53"]}, KeyError, "TP53"),
        ({"genes": "TP53"}, TypeError, "list of names"),
        ({"oversample": "twice"}, KeyError, "leiden"),
        ({"grid": {"ls": {"oversample": ["twice"]}}}, KeyError, "leiden"),
        ({"grid": {"ls": {"normalize": ["tpm"]}}}, KeyError, "log1p_10k"),
        ({"grid": {"ls": {"tiles": [{"radius": 2}]}}}, ValueError, "radius_um"),
        ({"grid": {"ls": {"tiles": [300]}}}, TypeError, "must be a mapping such as"),
        ({"grid": {"ls": {"encoder": ["uni9"]}}}, KeyError, "uni9"),
        ({"patient_key": {"P1_S1": "a", "P2_S1": "a"}}, ValueError, "at least two patients"),
        ({"patient_key": None}, ValueError, "need `patient_key`"),
        ({"device": "tpu"}, ValueError, "`device`"),
        ({"models": {"x": lambda: LeastSquares()}, "out": "run"}, TypeError, r"functools\.partial"),
        ({"models": {"x": functools.partial(LeastSquares, seed=object)}, "out": "run"}, TypeError, "source"),
    ],
)
def test_bad_input_is_named_before_anything_is_added(slides, quick, change, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        cross_validate(slides, **{**quick, **change})
    assert all(list(sdata.tables) == ["table"] for sdata in slides.values())
    assert not list(tmp_path.iterdir())


def test_copy_of_a_slide_under_another_patient_is_an_error(slides, quick):
    from spatialdata import deepcopy

    slides["again"] = deepcopy(slides["P1_S1"])
    patients = {"P1_S1": "P1", "P2_S1": "P2", "again": "P3"}
    with pytest.raises(ValueError, match=r"'P1_S1' .* 'again'"):
        cross_validate(slides, **{**quick, "patient_key": patients})
    found = cross_validate(slides, **{**quick, "patient_key": patients | {"again": "P1 "}})
    assert set(found.scores["patient"]) == {"P1", "P2"}


def test_measures_beside_r(cv):
    scores, patterns = cv.scores, cv.patterns
    assert list(patterns.columns[4:]) == ["patterns_predicted", "patterns_measured", "gene_agreement", *OF_VALUES]
    assert scores.loc[scores["model"] == "ridge", BY_GENE].notna().mean().min() > 0.9
    sides = {fold: ([s for s in cv.slides if cv.slides[s] != fold], [fold + "_S1"]) for fold in cv.splits}
    assert cv.splits == {fold: [train, test] for fold, (train, test) in sides.items()}
    assert cv.columns["patient"] == cv.slides
    # The training mean knows the means of genes and no pattern, and its r over all values is high nevertheless.
    means = patterns[patterns["model"] == "training mean"]
    assert (means["r_all"] > 0.4).all()
    np.testing.assert_allclose(means["r_all_pattern"], 0, atol=1e-6)
    assert len(patterns) == len(cv.grid) * 3
    assert scores["r_ceiling"].dropna().between(0, 1).all()
    # The measurement is the same for all models.
    assert (patterns.groupby("slide", observed=True)["patterns_measured"].nunique() == 1).all()
    found = cv.measures()
    assert list(found.index) == ["ls", "ridge", *NULLS]
    assert found.loc["training mean", ["r", "r_beyond_axis"]].tolist() == [0, 0]
    assert found.loc["ridge", "r"] > found.loc["ridge", "r_beyond_axis"]
    assert found.loc["ridge", "r"] < found.loc["ridge", "r_of_ceiling"]
