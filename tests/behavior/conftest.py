"""What the journeys share: slides of three patients, a model of two of them, and the third one predicted."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from spatialdata import deepcopy

import deepspot as ds


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def encoder(mean_color):
    class Brightness(mean_color):
        """In 0 to 1, where a short training already tells the spots apart."""

        def encode(self, tiles):
            return super().encode(tiles) * (32 / 255)

    return Brightness()


@pytest.fixture(scope="session")
def training():
    """Options of a training that takes seconds, and ends in a network that has learned something."""
    network = {"width": 64, "members": 1}
    return {"network": network, "training": {"epochs": 40, "lr": 3e-3, "gate": "record"}, "seed": 0}


@pytest.fixture(scope="session")
def all_slides():
    """Shared, so nobody may change them: see `slides`."""
    return ds.datasets.toy(3, 1, n_rows=6, n_cols=7, stain_shift=0.1)


@pytest.fixture
def slides(all_slides):
    return {name: deepcopy(sdata) for name, sdata in all_slides.items()}


@pytest.fixture(scope="session")
def model(all_slides, encoder, training):
    slides = {name: deepcopy(all_slides[name]) for name in ("P1_S1", "P2_S1")}
    return ds.models.train(slides, patient_key="patient", genes=40, encoder=encoder, **training)


@pytest.fixture(scope="session")
def predicted_once(all_slides, model, encoder):
    sdata = deepcopy(all_slides["P3_S1"])
    ds.tl.predict(sdata, model, encoder=encoder)
    return sdata


@pytest.fixture
def predicted(predicted_once):
    """A slide of a patient that the model has not seen, with its prediction."""
    return deepcopy(predicted_once)


@pytest.fixture(scope="session")
def snapshot():
    """All that a slide holds, to be compared with what it holds later."""

    def take(sdata):
        tables = {
            name: (
                table.to_df().to_numpy().tobytes(),
                sorted(table.obs),
                sorted(table.var),
                sorted(table.uns),
                sorted(table.obsm),
                sorted(map(str, table.layers)),
            )
            for name, table in sdata.tables.items()
        }
        shapes = {name: (list(frame.index), sorted(frame)) for name, frame in sdata.shapes.items()}
        return tables, shapes, sorted(sdata.images), sorted(sdata.coordinate_systems)

    return take


@pytest.fixture(scope="session")
def programs(all_slides):
    """Genes of each program that the toy slides follow."""
    by_program = all_slides["P1_S1"]["table"].var.groupby("program").groups
    return {str(program): list(genes) for program, genes in by_program.items()}


@pytest.fixture(scope="session")
def classes():
    """Name the most frequent class of tissue of each spot."""

    def classify(sdata):
        table = sdata.tables["table"]
        names = np.array(list(table.uns["composition"]))
        return pd.Series(names[np.asarray(table.obsm["composition"]).argmax(axis=1)], index=sdata.shapes["spots"].index)

    return classify
