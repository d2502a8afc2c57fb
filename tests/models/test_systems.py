import inspect
from functools import partial

import pytest

from deepspot.models._estimator import Estimator
from deepspot.models._systems import NULLS, SYSTEMS


@pytest.mark.parametrize("name", [*SYSTEMS, *NULLS])
def test_every_system_has_the_interface(name):
    model = (SYSTEMS | NULLS)[name]()
    assert isinstance(model, Estimator)
    parameters = inspect.signature(model.fit).parameters
    assert {"bags", "targets", "rows", "slides", "patients"} <= set(parameters)


def test_names_are_those_of_the_docs_and_no_null_model_is_among_them():
    assert list(SYSTEMS) == [
        "deepspot",
        "deepspot_paper",
        "deepspot_published",
        "ridge",
        "ridge_pca",
        "linear",
        "random_forest",
        "mlp",
        "stnet",
        "stnet_finetuned",
        "bleep",
        "histogene",
        "hist2st",
        "thitogene",
        "triplex",
        "deepcell",
        "deepspot2cell",
        "cell_sum",
    ]
    assert list(NULLS) == ["training mean", "position only", "shuffled images"]


def test_variants_differ_from_their_systems():
    assert SYSTEMS["deepspot_paper"]().preset == "paper"
    assert SYSTEMS["deepspot_published"]().preset == "published"
    assert SYSTEMS["ridge_pca"]().pca == 256
    assert SYSTEMS["stnet_finetuned"]().fine_tune
    assert not SYSTEMS["stnet"]().fine_tune


@pytest.mark.parametrize("name", ["deepspot", "random_forest", "mlp", "stnet", "bleep"])
def test_random_systems_take_a_seed(name):
    assert partial(SYSTEMS[name], seed=3)().seed == 3
