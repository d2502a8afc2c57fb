import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spatialdata.models import ShapesModel

from deepspot._core.keys import features_name, prediction_name, valid_name
from deepspot._sdata.write import check_new_key

SPOT = ShapesModel.parse(np.zeros((1, 2)), geometry=0, radius=1)


@pytest.fixture(scope="module")
def sdata():
    from spatialdata import SpatialData

    return SpatialData()


@settings(max_examples=80, deadline=None)
@given(name=st.text(max_size=12) | st.text(alphabet="_.-aé/: ", max_size=6))
@example("hf-hub:Org/model")
@example("..")
@example("__")
@example("._x")
@example("")
@example("_._")
def test_any_name_is_converted_to_a_valid_one(sdata, name):
    clean = valid_name(name)
    assert re.fullmatch(r"[\w.-]+", clean)
    assert valid_name(clean) == clean
    check_new_key(sdata, clean)
    sdata.shapes[clean] = SPOT
    del sdata.shapes[clean]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("hf-hub:Org/model", "hf-hub_Org_model"),
        ("lite0_stats", "lite0_stats"),
        ("µm  5", "µm_5"),
        ("组织 1", "组织_1"),
        ("__x__", "x"),
        ("a.b-c", "a.b-c"),
        ("..", "unnamed"),
        ("", "unnamed"),
        (".hidden", "hidden"),
    ],
)
def test_valid_name(name, clean):
    assert valid_name(name) == clean


def test_names_of_tables():
    assert features_name("hf-hub:Org/model", "spots") == "hf-hub_Org_model_spots"
    assert prediction_name("V1") == "deepspot_V1"
