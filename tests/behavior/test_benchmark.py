"""Compare models on held-out patients, also with those that know nothing of the image."""

import deepspot as ds


def test_ridge_beats_models_that_know_nothing(slides, encoder):
    models = ["ridge", "null_mean", "null_position"]
    known = [name for name in models if name in ds.models.available().index] or list(ds.models.available().index)
    result = ds.tl.cross_validate(
        slides, patient_key="patient", models=known, genes=20, top=(10, 20), encoder=encoder, n_bootstrap=200, seed=0
    )
    assert set(result.table["fold"]) == {"P1", "P2", "P3"}
    assert set(result.table["model"]) == set(known)
    ax = ds.pl.benchmark(result)
    assert len(ax.containers) == len(known)
