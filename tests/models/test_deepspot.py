from copy import copy

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from deepspot._stats.metrics import pearson
from deepspot._stats.normalize import SCALES
from deepspot.models import DeepSpot, Ridge
from deepspot.models._confidence.folds import held_out
from deepspot.models._model import clip_expression

# The network alone; the gate is tested in test_assess.py.
NO_GATE = {"gate": "off"}
SMALL = {
    "network": {"width": 64, "members": 1, "dropout": 0.1},
    "training": {**NO_GATE, "epochs": 150, "lr": 3e-3},
    "seed": 0,
}
QUICK = {"network": {"width": 8, "members": 2}, "training": {**NO_GATE, "epochs": 2}, "seed": 0}


@pytest.fixture(scope="module")
def fitted(bags, targets):
    return DeepSpot(**SMALL).fit(bags, targets)


def test_it_predicts_genes_of_all_three_sets(bags, targets, fitted):
    assert pearson(fitted.predict(bags), targets).min() > 0.9


@pytest.mark.parametrize(
    ("context", "learned", "lost"),
    [(("spot",), slice(0, 2), slice(2, 6)), (("spot", "subspots"), slice(0, 4), slice(4, 6))],
)
def test_genes_of_sets_outside_the_context_are_not_predicted(bags, targets, context, learned, lost):
    rows = np.arange(0, len(bags), 2)
    held_out = np.setdiff1d(np.arange(len(bags)), rows)
    config = {
        **SMALL,
        "network": {**SMALL["network"], "context": context},
        "training": {**NO_GATE, "epochs": 60, "lr": 3e-3},
    }
    r = pearson(DeepSpot(**config).fit(bags, targets, rows=rows).predict(bags)[held_out], targets[held_out])
    assert r[learned].min() > 0.4
    assert r[lost].max() < 0.35


def test_a_shuffled_target_gives_r_near_zero(bags, targets):
    rng = np.random.default_rng(0)
    rows = np.arange(0, len(bags), 2)
    held_out = np.setdiff1d(np.arange(len(bags)), rows)
    model = DeepSpot(**{**SMALL, "training": {**NO_GATE, "epochs": 60, "lr": 3e-3}}).fit(
        bags, rng.permutation(targets), rows=rows
    )
    assert abs(pearson(model.predict(bags)[held_out], targets[held_out]).mean()) < 0.15


def test_same_seed_same_weights_and_another_seed_others(bags, targets):
    one, two = (DeepSpot(**QUICK).fit(bags, targets).predict(bags) for _ in range(2))
    other = DeepSpot(**{**QUICK, "seed": 1}).fit(bags, targets).predict(bags)
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 1e-3


def test_members_differ_within_and_between_neighboring_seeds(bags, targets):
    members = [m.phi[0].weight for s in (0, 1) for m in DeepSpot(**{**QUICK, "seed": s}).fit(bags, targets).members]
    gaps = [(members[i] - members[j]).abs().max() for i in range(4) for j in range(i)]
    assert min(gaps) > 0.01


def test_training_does_not_change_the_random_state(bags, targets):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    DeepSpot(**QUICK).fit(bags, targets)
    assert torch.equal(torch.rand(3), expected)


def test_prediction_is_on_the_scale_of_the_targets(bags, targets, fitted):
    predicted = DeepSpot(**SMALL).fit(bags, targets * 10 + 100).predict(bags)
    np.testing.assert_allclose(predicted, fitted.predict(bags) * 10 + 100, atol=0.05)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_rows_are_predicted_like_in_a_prediction_of_all_spots(bags, targets, monkeypatch, weight):
    model = DeepSpot(**QUICK).fit(bags, targets)
    model.ridge = Ridge().fit(bags, targets)
    monkeypatch.setattr(DeepSpot, "weight", weight)
    rows = np.array([7, 3, 11])
    np.testing.assert_allclose(model.predict(bags, rows=rows), model.predict(bags)[rows], rtol=1e-5, atol=1e-5)


def test_spots_to_predict_are_checked(bags, fitted):
    mask = np.arange(len(bags)) == 3
    np.testing.assert_allclose(fitted.predict(bags, rows=mask), fitted.predict(bags)[[3]], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="`rows` must be row numbers from 0 to"):
        fitted.predict(bags, rows=np.array([len(bags)]))


def test_missing_genes_are_masked_and_slides_with_other_panels_train_together(bags, targets):
    rows = np.arange(len(bags))
    mixed = targets.copy()
    mixed[rows % 2 == 0, 0] = np.nan
    mixed[rows % 2 == 1, 3] = np.nan
    predicted = DeepSpot(**SMALL).fit(bags, mixed).predict(bags)
    assert np.isfinite(predicted).all()
    assert pearson(predicted, targets)[[1, 2, 4, 5]].min() > 0.9
    assert pearson(predicted[rows % 2 == 1], targets[rows % 2 == 1])[0] > 0.9


def test_a_gene_without_any_target_is_an_error_that_names_it(bags, targets):
    broken = targets.copy()
    broken[:, 2] = np.nan
    with pytest.raises(ValueError, match="first 'C'"):
        DeepSpot(**QUICK).fit(bags, broken, genes=list("ABCDEF"))


def test_held_out_patients_choose_the_number_of_epochs(bags, targets):
    model = DeepSpot(**{**QUICK, "training": {**NO_GATE, "max_epochs": 7, "patience": 2, "lr": 3e-3}})
    model.fit(bags, targets, patients=np.arange(len(bags)) // 72)
    search = model.history[model.history["member"] == "search"]
    members = model.history[model.history["member"] == "member_1"]
    assert model.card.epochs == int(search["validation"].to_numpy().argmin()) + 1
    assert len(members) == model.card.epochs
    assert members["validation"].isna().all()


def test_held_out_spots_without_targets_do_not_break_the_search(bags, targets):
    config = {**QUICK, "training": {**NO_GATE, "max_epochs": 6, "lr": 3e-3}}
    patients = np.arange(len(bags)) // 72
    holed = targets.copy()
    holed[[3, 100]] = np.nan
    search = DeepSpot(**config).fit(bags, holed, patients=patients).history.query("member == 'search'")
    assert search["validation"].iloc[-1] < search["validation"].iloc[0] < 1.5
    assert search["validation"].nunique() > 1


def test_the_search_standardizes_without_the_held_out_patient(bags, targets):
    config = {**QUICK, "training": {**NO_GATE, "max_epochs": 3}}
    patients = np.arange(len(bags)) // 72
    first = DeepSpot(**config).fit(bags, targets, patients=patients)
    held = held_out(np.arange(len(bags)), patients, seed=0)
    spoilt = targets.copy()
    spoilt[held] = spoilt[held] * 50 + 1000
    second = DeepSpot(**config).fit(bags, spoilt, patients=patients)
    one, two = (m.history.query("member == 'search'")[["train", "validation"]].to_numpy() for m in (first, second))
    np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("n_patients", [2, 3, 5, 11])
def test_held_out_patients_are_whole_and_about_a_fifth(n_patients):
    patients = np.arange(60) % n_patients
    rows = np.arange(60)
    held = held_out(rows, patients, seed=0)
    assert set(patients[held]).isdisjoint(patients[np.setdiff1d(rows, held)])
    assert len(set(patients[held])) == max(1, round(n_patients / 5))


def test_rows_can_be_a_mask_and_must_exist(bags, targets):
    mask = np.arange(len(bags)) < 70
    one, two = (DeepSpot(**QUICK).fit(bags, targets, rows=r).predict(bags) for r in (mask, np.arange(70)))
    np.testing.assert_array_equal(one, two)
    for wrong in ([-1, 2], [999], []):
        with pytest.raises(ValueError, match="`rows`"):
            DeepSpot(**QUICK).fit(bags, targets, rows=np.array(wrong, dtype=int))


def test_a_failed_fit_leaves_the_model_unchanged(bags, targets, monkeypatch):
    from deepspot.models._network.fit import _Task

    model = DeepSpot(**QUICK).fit(bags, targets)
    before = model.predict(bags)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(_Task, "training_step", fail)
    with pytest.raises(MemoryError):
        model.fit(bags, targets + 100)
    np.testing.assert_array_equal(model.predict(bags), before)


def test_callbacks_of_the_user_are_called(bags, targets):
    from lightning.pytorch.callbacks import Callback

    class Count(Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer, module):
            Count.epochs += 1

    config = {
        **QUICK,
        "network": {"width": 8, "members": 1},
        "training": {**NO_GATE, "max_epochs": 40, "patience": 1, "lr": 0.03},
    }
    noise = np.random.default_rng(0).permutation(targets)
    model = DeepSpot(**config).fit(bags, noise, patients=np.arange(144) // 72, trainer_kwargs={"callbacks": [Count()]})
    assert Count.epochs == len(model.history)
    assert len(model.history.query("member == 'search'")) < 40
    with pytest.raises(ValueError, match="max_epochs"):
        DeepSpot(**config).fit(bags, targets, trainer_kwargs={"max_epochs": 3})


@pytest.mark.parametrize("change", ["neighbors", "subspots", "patients", "targets", "epochs"])
def test_a_checkpoint_of_something_else_is_not_resumed(bags, targets, lonely, tmp_path, change):
    from deepspot._features.bags import Bags

    config = {**QUICK, "training": {**NO_GATE, "epochs": 2, "max_epochs": 2}}
    DeepSpot(**config).fit(bags, targets, trainer_kwargs={"default_root_dir": tmp_path})
    data, values, options = bags, targets, {}
    if change == "neighbors":
        data = lonely
    elif change == "subspots":
        data = Bags(bags.spot, bags.subspots[::-1], bags.neighbors)
    elif change == "patients":
        options = {"patients": np.arange(len(bags)) // 72}
    elif change == "targets":
        values = targets[:, ::-1]
    else:
        config = {**config, "training": {**NO_GATE, "epochs": 3}}
    fresh = DeepSpot(**config).fit(data, values, **options).predict(data)
    resumed = (
        DeepSpot(**config).fit(data, values, trainer_kwargs={"default_root_dir": tmp_path}, **options).predict(data)
    )
    np.testing.assert_array_equal(fresh, resumed)


def test_a_finished_search_is_not_continued(bags, targets, tmp_path):
    config = {**QUICK, "training": {**NO_GATE, "max_epochs": 30, "patience": 2, "lr": 0.01}}
    options = {"patients": np.arange(len(bags)) // 72, "trainer_kwargs": {"default_root_dir": tmp_path}}
    first, second = (DeepSpot(**config).fit(bags, targets, **options) for _ in range(2))
    assert first.card.epochs == second.card.epochs
    assert first.history.equals(second.history)


def test_rows_outside_the_training_set_have_no_effect(bags, targets):
    rows = np.arange(70)
    spoilt = targets.copy()
    spoilt[70:] = 1e6
    one, two = (DeepSpot(**QUICK).fit(bags, y, rows=rows).predict(bags) for y in (targets, spoilt))
    np.testing.assert_array_equal(one, two)


def test_an_interrupted_fit_resumes_to_the_same_weights(bags, targets, tmp_path, monkeypatch):
    from deepspot.models._network.fit import _Task

    config = {**QUICK, "training": {**NO_GATE, "epochs": 6}}
    whole = DeepSpot(**config).fit(bags, targets).predict(bags)
    step = _Task.training_step
    starts = []
    monkeypatch.setattr(_Task, "on_train_start", lambda task: starts.append(1), raising=False)

    def die(task, *batch):
        if task.current_epoch == 4 and len(starts) == 2:
            raise KeyboardInterrupt
        return step(task, *batch)

    monkeypatch.setattr(_Task, "training_step", die)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        DeepSpot(**config).fit(bags, targets, trainer_kwargs={"default_root_dir": tmp_path})
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(_Task, "training_step", lambda *a: steps.append(1) or step(*a))
    resumed = DeepSpot(**config).fit(bags, targets, trainer_kwargs={"default_root_dir": tmp_path})
    np.testing.assert_array_equal(resumed.predict(bags), whole)
    assert len(steps) < 2 * 6 * 2 / 2
    assert len(resumed.history) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": ["A", "B"]}, "6 different names"),
        ({"genes": list("ABCDEE")}, "6, 5 of them different"),
        ({"slides": np.zeros(3)}, "`slides`"),
        ({"patients": np.zeros(3)}, "`patients`"),
    ],
)
def test_arguments_that_do_not_fit_are_named(bags, targets, options, message):
    with pytest.raises(ValueError, match=message):
        DeepSpot(**QUICK).fit(bags, targets, **options)


def test_a_field_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ValueError, match=r"`network` does not fit \(widht.*'width'"):
        DeepSpot(network={"widht": 3})
    with pytest.raises(ValueError, match="`training` does not fit"):
        DeepSpot(training={"lr": -1})


def test_context_has_one_order():
    context = DeepSpot(network={"context": ("neighbors", "spot", "spot")}).network.context
    assert context == ("spot", "neighbors")


@pytest.mark.parametrize("name", ["paper", "published"])
def test_presets_are_the_ensembles_of_the_paper(bags, targets, name):
    model = DeepSpot(preset=name, network={"width": 4}, training={**NO_GATE, "epochs": 1}, seed=0).fit(bags, targets)
    assert (len(model.members), len(model.members[0].phi), len(model.members[0].rho)) == (1, 10, 1)
    assert model.network.subspot_pooling == "sum"
    assert model.network.phi_average == {"paper": "mean", "published": "median"}[name]
    assert model.training.optimizer == {"paper": "adam", "published": "adamw"}[name]
    assert np.isfinite(model.predict(bags)).all()


def test_an_unknown_preset_lists_the_known_ones(bags):
    with pytest.raises(KeyError, match="published"):
        DeepSpot(preset="papre")


def test_bags_of_another_length_are_refused(bags, fitted):
    from deepspot._features.bags import Bags

    with pytest.raises(ValueError, match="length 16, got 8"):
        fitted.predict(Bags(bags.spot[:, :8], bags.subspots[..., :8], bags.neighbors))


def test_missing_subspots_are_refused(bags, fitted):
    from deepspot._features.bags import Bags

    with pytest.raises(ValueError, match="subspots='tiles'"):
        fitted.predict(Bags(bags.spot, None, bags.neighbors))


def test_an_unfitted_model_raises(bags):
    with pytest.raises(ValueError, match="not fitted"):
        DeepSpot().predict(bags)
    for ask in ("card", "scaler", "history", "weight", "fingerprint", "geometry"):
        with pytest.raises(NotFittedError, match=r"Call `fit`, or load one with `ds\.models\.load`"):
            getattr(DeepSpot(), ask)
    assert repr(DeepSpot()) == "DeepSpot(preset='default'), not fitted"
    with pytest.raises(AttributeError, match="has no attribute 'cart'"):
        DeepSpot().cart  # noqa: B018


def test_nothing_that_is_fitted_is_none(fitted):
    kept = ("card", "scaler", "members", "ridge", "ood", "history")
    assert all(getattr(fitted, name) is not None for name in kept)
    with pytest.raises(ValueError, match="fitted to arrays"):
        fitted.geometry  # noqa: B018
    with pytest.raises(ValueError, match="fitted to arrays"):
        fitted.encoder_card  # noqa: B018


@pytest.mark.parametrize("scale", [*SCALES.values(), None], ids=str)
def test_predictions_are_clipped_to_the_possible_values_of_the_scale(quick_model, scale):
    model = copy(quick_model)
    model.card = model.card.model_copy(update={"scale": "another" if scale is None else scale.text})
    # Of an unknown scale, any value is possible.
    lowest, highest = (-np.inf, np.inf) if scale is None else (0.0, scale.highest)
    clipped, above = clip_expression(model, np.array([[-1.0, 5.0, 20.0]]))
    np.testing.assert_array_equal(clipped, [[max(-1.0, lowest), 5.0, min(20.0, highest)]])
    assert above == (highest < 20)
