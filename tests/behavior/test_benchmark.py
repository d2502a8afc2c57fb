"""Compare models with null models on held-out patients."""

import deepspot as ds


def test_ridge_is_better_than_null_models(slides, encoder):
    result = ds.models.cross_validate(
        slides,
        patient_key="patient",
        models=["ridge"],
        genes=20,
        top=(10, 20),
        encoder=encoder,
        seed=0,
    )
    assert set(result.scores["fold"]) == {"P1", "P2", "P3"}
    r = result.scores.groupby("model", observed=True)["r"].mean().fillna(0)
    assert {"ridge", "training mean", "position only", "shuffled images"} == set(r.index)  # the last three always run
    assert r["ridge"] > r.drop("ridge").max()
    ax = ds.pl.benchmark(result)
    assert len(ax.containers) > 1
    assert "ridge" in " ".join(text.get_text() for text in ax.get_legend().get_texts())
