import pytest

import deepspot as ds

# After three epochs ridge would win: the gate is written down, and the network predicts all the same.
QUICK = {
    "network": {"width": 16, "members": 1},
    "training": {"epochs": 3, "max_epochs": 3, "gate": "record"},
    "seed": 0,
}


@pytest.fixture
def quick(cheap_encoder):
    """Arguments of a training that takes a second."""
    return {"patient_key": "patient", "genes": 10, "encoder": cheap_encoder, **QUICK}


@pytest.fixture(scope="session")
def quick_model(toy, mean_color):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    return ds.models.train(slides, patient_key="patient", genes=10, encoder=mean_color(), **QUICK)
