import numpy as np
import pytest
from scipy.sparse import csr_matrix
from spatialdata import deepcopy

import deepspot as ds
from deepspot._core.keys import SCALE
from deepspot.models._calibration.correction import LEAST_SLOPE, Correction, fit_affine
from deepspot.models._training.slides import measure
from deepspot.models._training.targets import targets

CHEAP = {"network": {"width": 16, "members": 1}, "training": {"epochs": 3, "max_epochs": 3}}


@pytest.fixture(scope="session")
def six():
    """Six slides of six patients."""
    return ds.datasets.toy(6, 1, n_rows=5, n_cols=6)


@pytest.fixture
def cohort(six):
    return {name: deepcopy(sdata) for name, sdata in six.items()}


@pytest.fixture(scope="session")
def trained(six, mean_color):
    slides = {"P1_S1": deepcopy(six["P1_S1"])}
    return ds.models.train(slides, genes=8, encoder=mean_color(), seed=0, **CHEAP)


def truth(sdata, genes):
    slide = measure("S", sdata, "spots", "table", patient="P", layer=None)
    return targets([slide], genes)[0][0]


class Oracle:
    """Knows the measured values, up to a scale and a level by gene, a sign, and noise."""

    name, fingerprint = "oracle", "oracle 1"
    model = None
    features_model_name = "mean_color"

    def __init__(self, table, noise=0.0):
        self.table, self.noise = table, noise

    def predict(self, features):
        rng = np.random.default_rng(len(features))
        rows = np.array([self.table.get(row.tobytes(), np.zeros(len(self.genes))) for row in features])
        rows = rows + self.noise * rng.normal(size=rows.shape)
        return {gene: 5 + 3 * rows[:, i] for i, gene in enumerate(self.genes)}


def oracle(slides, genes, encoder, noise=0.0, unmeasured=(), **options):
    """An adapted model that knows the truth of some slides, on a scale of its own."""
    table = {}
    for sdata in slides.values():
        ds.pp.embed(sdata, encoder, subspots=False)
        X = sdata.tables["mean_color_spots"].X
        table |= {row.tobytes(): values for row, values in zip(X, truth(sdata, genes), strict=True)}
    made = Oracle({key: np.concatenate([v, np.zeros(len(unmeasured))]) for key, v in table.items()}, noise)
    made.genes = [*genes, *unmeasured]
    return ds.models.adapt(made, encoder=encoder, tile_um=55, **options)


@pytest.fixture
def genes(six):
    return list(six["P1_S1"].tables["table"].var_names[:6])


def test_a_model_gets_reliability_and_reference(cohort, genes, cheap_encoder):
    model = oracle(cohort, genes, cheap_encoder)
    own = ds.models.calibrate(model, cohort, patient_key="patient", encoder=cheap_encoder, seed=0)
    assert own is not model
    assert model.card.reliability is None
    assert not model.ood.known
    reliability = own.card.reliability
    assert (reliability.unit, reliability.n) == ("patients", 6)
    np.testing.assert_allclose(reliability.r, 1, atol=1e-3)
    assert own.ood.known
    assert reliability.half_width is None
    assert "scale 'unknown'" in reliability.why_no_interval
    assert reliability.dispersion is None
    assert own.calibration.columns.tolist() == ["r", "rmse"]
    assert own.calibration["rmse"].isna().all()
    assert [slide.slide for slide in own.card.calibrated_on] == list(cohort)
    assert own.card.slides == []
    assert own.fingerprint != model.fingerprint
    sdata = cohort["P2_S1"]
    ds.tl.predict(sdata, own, encoder=cheap_encoder)
    table = sdata.tables["deepspot_spots"]
    assert table.var["expected_r"].notna().all()
    assert table.uns["deepspot"]["expected_r_from"] == "6 patients"
    assert not table.obs["ood"].all()


def test_affine_finds_the_scale_of_another_package(cohort, genes, cheap_encoder, tmp_path):
    model = oracle(cohort, genes, cheap_encoder)
    own = ds.models.calibrate(model, cohort, patient_key="patient", correction="affine", seed=0)
    assert own.card.scale == SCALE
    np.testing.assert_allclose(own.correction.slope, 1 / 3, rtol=1e-4)
    np.testing.assert_allclose(own.correction.intercept, -5 / 3, rtol=1e-3)
    assert own.calibration["rmse"].max() < 1e-3
    sdata = cohort["P3_S1"]
    ds.tl.predict(sdata, own, intervals=True)
    table = sdata.tables["deepspot_spots"]
    np.testing.assert_allclose(table.X, truth(sdata, genes), atol=1e-3)
    ds.tl.correct(sdata, own, check_registration=False)
    assert max(own.card.reliability.dispersion) < 0.01  # the prediction is exact
    assert sdata.tables["deepspot_spots"].uns["deepspot"]["training_slide"] == "yes"
    with pytest.raises(ValueError, match="is not saved: it is code of another package"):
        own.save(tmp_path / "bundle")
    with pytest.raises(ValueError, match="learned from slides"):
        ds.models.calibrate(own, cohort, patient_key="patient")
    text = ds.report(sdata, tmp_path / "report.html", model=own, genes=1).read_text()
    assert "6 held-out patients" in text or "6 patients" in text


def test_genes_that_are_not_measured_are_left_out_of_a_new_scale(cohort, genes, cheap_encoder, log):
    model = oracle(cohort, genes, cheap_encoder, unmeasured=["NOT_A", "NOT_B"])
    plain = ds.models.calibrate(model, cohort, patient_key="patient")
    assert plain.card.genes == [*genes, "NOT_A", "NOT_B"]
    assert plain.card.reliability.r[-2:] == [None, None]
    for kind in ("affine", "ridge"):
        own = ds.models.calibrate(model, cohort, patient_key="patient", correction=kind)
        assert own.card.genes == genes
        assert len(own.card.reliability.r) == len(own.correction.slope) == len(genes)
        assert "2 genes that no slide measures are left out." in log
        ds.tl.predict(cohort["P1_S1"], own, overwrite=True)
        assert cohort["P1_S1"].tables["deepspot_spots"].shape == (30, len(genes))
    none = oracle(cohort, genes[:0], cheap_encoder, unmeasured=["NOT_A"])
    with pytest.raises(ValueError, match="The slides measure none of the 1 genes"):
        ds.models.calibrate(none, cohort, patient_key="patient")


def test_affine_of_a_bundle_is_a_bundle(cohort, trained, cheap_encoder, tmp_path):
    before = trained.fingerprint
    slides = {name: cohort[name] for name in ("P2_S1", "P3_S1")}
    options = {"patient_key": "patient", "encoder": cheap_encoder, "seed": 0}
    own = ds.models.calibrate(trained, slides, correction="affine", **options)
    assert isinstance(own, ds.models.DeepSpot)
    assert trained.fingerprint == before != own.fingerprint
    bags = _bags(slides["P2_S1"], trained)
    measured = np.concatenate([truth(sdata, trained.card.genes) for sdata in slides.values()])
    predicted = np.concatenate([trained.predict(_bags(sdata, trained)) for sdata in slides.values()])
    slope, intercept = fit_affine(predicted, measured, np.repeat([0, 1], 30))
    np.testing.assert_allclose(own.predict(bags), trained.predict(bags) * slope + intercept, rtol=2e-3, atol=5e-3)
    own.save(tmp_path / "own")
    loaded = ds.models.load(tmp_path / "own")
    np.testing.assert_allclose(loaded.predict(bags), own.predict(bags), rtol=1e-5, atol=1e-6)
    assert loaded.fingerprint == own.fingerprint
    assert [slide.slide for slide in loaded.card.calibrated_on] == ["P2_S1", "P3_S1"]
    assert {slide.slide for slide in loaded.card.slides} >= {"P1_S1", "P2_S1", "P3_S1"}


def test_without_correction_the_prediction_is_the_same(cohort, trained, cheap_encoder):
    own = ds.models.calibrate(trained, cohort["P2_S1"], encoder=cheap_encoder)
    bags = _bags(cohort["P2_S1"], trained)
    np.testing.assert_array_equal(own.predict(bags), trained.predict(bags))
    assert own.card.slides == trained.card.slides
    assert own.card.reliability.unit == "blocks"
    assert own.fingerprint != trained.fingerprint


def test_ridge_is_not_a_bundle(cohort, trained, cheap_encoder, tmp_path, log):
    own = ds.models.calibrate(trained, cohort["P2_S1"], correction="ridge", encoder=cheap_encoder)
    assert isinstance(own, ds.models.CorrectedModel)
    bags = _bags(cohort["P2_S1"], trained)
    some = np.array([3, 1])
    np.testing.assert_allclose(own.predict(bags, rows=some), own.predict(bags)[some], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="is not saved: bundles have no place for a ridge correction"):
        own.save(tmp_path / "bundle")
    sdata = cohort["P3_S1"]
    ds.tl.predict(sdata, own, encoder=cheap_encoder)
    ds.tl.predict(sdata, own, encoder=cheap_encoder, out=tmp_path / "out.zarr", key_added="disk")
    ds.tl.predict(sdata, own, encoder=cheap_encoder, resolution="subspot")
    names = sdata.tables["deepspot_spots"].obs_names
    whole = np.asarray(sdata.tables["deepspot_spots"].X)
    np.testing.assert_allclose(np.asarray(sdata.tables["disk"][names].X), whole, atol=0.02)
    assert any("expect less on another patient" in line for line in log)


def _bags(sdata, model):
    from deepspot._features.feature_table import bags_of

    key = next(key for key in sdata.tables if key.startswith("mean_color") and "subspots" in sdata.tables[key].obsm)
    return bags_of(sdata, key, "spots", model.geometry.neighbors)


def test_training_slides_are_refused(cohort, trained, cheap_encoder):
    slides = {"a": cohort["P1_S1"], "b": cohort["P2_S1"]}
    with pytest.raises(ValueError, match=r"Model 'deepspot' learned from slides \['a'\]"):
        ds.models.calibrate(trained, slides, patient_key="patient", encoder=cheap_encoder)


@pytest.mark.parametrize("kind", ["affine", "ridge"])
def test_a_correction_of_noise_does_not_look_good(cohort, genes, cheap_encoder, kind):
    """The truth is not in the features: what is measured out of fold must say so, for any correction."""
    rng = np.random.default_rng(0)
    for sdata in cohort.values():
        table = sdata.tables["table"]
        table.X = csr_matrix(rng.poisson(5, size=table.shape).astype(np.float32))

    def constant(tiles):
        return tiles.mean(axis=(1, 2))

    model = ds.models.adapt(constant, genes=genes[:3], tile_um=55, input_px=32)
    own = ds.models.calibrate(model, cohort, patient_key="patient", correction=kind, seed=0)
    assert abs(own.calibration["r"].mean()) < 0.12
    assert (np.array(own.card.reliability.r_low, dtype=float) < 0).all()


def test_a_prediction_without_relation_is_named(cohort, genes, cheap_encoder, log):
    class Negative(Oracle):
        fingerprint = "oracle, negative"

        def predict(self, features):
            return {gene: -values for gene, values in super().predict(features).items()}

    known = oracle(cohort, genes, cheap_encoder).predictor
    negative = Negative(known.table)
    negative.genes = genes
    model = ds.models.adapt(negative, encoder=cheap_encoder, tile_um=55)
    ds.models.calibrate(model, cohort, patient_key="patient")
    assert any("not related to the measurement" in line for line in log)
    assert "scale 'log1p" in repr(ds.models.calibrate(model, cohort, patient_key="patient", correction="ridge"))


def test_held_out_spots_have_no_part_in_their_correction(cohort, genes, cheap_encoder, monkeypatch):
    model = oracle(cohort, genes, cheap_encoder, noise=0.1)
    calls, fit = [], Correction.fit.__func__

    def spy(cls, kind, predicted, expression, bags, *, rows, slides, patients, context):
        calls.append((rows, patients[rows]))
        return fit(cls, kind, predicted, expression, bags, rows=rows, slides=slides, patients=patients, context=context)

    monkeypatch.setattr(Correction, "fit", classmethod(spy))
    ds.models.calibrate(model, cohort, patient_key="patient", correction="affine")
    *folds, whole = calls
    assert len(folds) == 5
    assert len(whole[0]) == 180
    assert sum(6 - len(np.unique(patients)) for _, patients in folds) == 6  # each patient is out once
    calls.clear()
    ds.models.calibrate(model, cohort["P1_S1"], correction="affine")
    *folds, _ = calls
    x = np.asarray(cohort["P1_S1"].tables["mean_color_spots"].obsm["spatial"])
    longer = x[:, np.ptp(x, axis=0).argmax()]
    for rows, _ in folds:
        out = np.setdiff1d(np.arange(30), rows)
        inside = (longer[rows] > longer[out].min()) & (longer[rows] < longer[out].max())
        assert not inside.any()  # strips


def test_ridge_is_added_only_where_it_helps():
    """What an affine correction leaves over is in the features of one case, and in nothing in the other."""
    rng = np.random.default_rng(0)
    n = 200
    spot = rng.normal(size=(n, 6)).astype(np.float32)
    position = np.column_stack([np.arange(n), np.zeros(n)]).astype(np.float32)
    bags = ds.models.Bags(spot, None, csr_matrix((n, n), dtype=bool), position)
    groups = {"rows": np.arange(n), "slides": np.zeros(n, int), "patients": np.zeros(n, int), "context": ("spot",)}
    predicted = rng.normal(size=(n, 4)).astype(np.float32)
    noise = 0.5 * rng.normal(size=(n, 4)).astype(np.float32)
    learned = Correction.fit("ridge", predicted, predicted + spot[:, :4] + noise, bags, **groups)
    corrected = learned.apply(predicted, bags, np.arange(n))
    assert np.abs(corrected - predicted - spot[:, :4]).mean() < 0.4  # 0.8 before
    assert Correction.fit("ridge", predicted, 2 * predicted + noise, bags, **groups).ridge is None


def test_slopes_are_within_slides():
    """Slides differ in level, against the pattern within them: a pooled slope would be negative."""
    rng = np.random.default_rng(0)
    slides = np.repeat([0, 1], 50)
    x = rng.normal(size=(100, 2)) + 5 * slides[:, None]
    y = 2 * x - 20 * slides[:, None]
    y[:, 1] = -y[:, 1]
    slope, intercept = fit_affine(x, y, slides)
    assert slope[0] == pytest.approx(2)
    assert slope[1] == pytest.approx(2 * LEAST_SLOPE)  # the ratio of the standard deviations is 2
    large, _ = fit_affine(1000 * x, y, slides)  # a predictor with other units
    np.testing.assert_allclose(large, slope / 1000, rtol=1e-5)
    np.testing.assert_allclose((x * slope + intercept).mean(axis=0), y.mean(axis=0), rtol=1e-5)
    y[:, 0] = np.nan
    slope, intercept = fit_affine(x, y, slides)
    assert (slope[0], intercept[0]) == (1, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "Several slides need `patient_key`"),
        ({"patient_key": "patient", "correction": "pooled"}, KeyError, "corrections"),
        ({"patient_key": "patient", "keys": {"features_key": "a"}}, ValueError, "Leave `features_key` out"),
    ],
)
def test_bad_input(cohort, trained, cheap_encoder, options, error, message):
    with pytest.raises(error, match=message):
        ds.models.calibrate(trained, cohort, encoder=cheap_encoder, **options)
    assert all("mean_color_spots" not in sdata.tables for sdata in cohort.values())


def test_a_copy_under_another_patient_is_refused(cohort, trained, cheap_encoder):
    slides = {"a": cohort["P2_S1"], "b": deepcopy(cohort["P2_S1"])}
    with pytest.raises(ValueError, match="would be tested on its training data"):
        ds.models.calibrate(trained, slides, patient_key={"a": "P2", "b": "P3"}, encoder=cheap_encoder)


def test_models_of_tiles_are_calibrated_on_their_outputs(cohort, genes):
    def colors(tiles):
        return tiles.mean(axis=(1, 2))

    model = ds.models.adapt(colors, genes=genes[:3], tile_um=55, input_px=32)
    own = ds.models.calibrate(model, cohort, patient_key="patient", correction="ridge")
    assert own.ood.core.shape[1] == 3
    ds.tl.predict(cohort["P1_S1"], own)
    assert "ood" in cohort["P1_S1"].tables["deepspot_spots"].obs
