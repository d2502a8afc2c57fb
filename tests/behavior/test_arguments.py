"""Wrong arguments of public functions: they raise an error of this package, and change nothing.

A value may also be accepted. Arguments are replaced one at a time in a call that works, and slides and tables are
shortened to a few rows or none.
"""

import inspect
import time
from contextlib import suppress

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from spatialdata import deepcopy

import deepspot as ds

WRONG = st.one_of(
    st.sampled_from([None, object(), b"x", "", "no such name", True, [], {}, {"a": 1}, ("a",), [None], 10**12, -1, 0]),
    st.floats(),
    st.integers(-5, 2),
    st.lists(st.text(max_size=3), max_size=3),
    st.just(np.array([1.0, np.nan])),
)
# Far more than a call takes on these slides, also while other processes run.
MAX_SECONDS = 60
GENES = [f"G{number}" for number in range(8)]


def patients(n=30):
    rng = np.random.default_rng(0)
    names = [f"P{number}" for number in range(n)]
    obs = {
        "patient": names,
        "kind": ["x", "y"] * (n // 2),
        "time": rng.exponential(10, n) + 0.1,
        "event": [0, 1, 1] * 10,
    }
    return AnnData(rng.normal(size=(n, 8)), pd.DataFrame(obs, index=names), pd.DataFrame(index=GENES))


def spots(n=16):
    xy = [[150.0 + 200 * (number % 4), 150.0 + 200 * (number // 4)] for number in range(n)]
    return AnnData(np.ones((n, 3), np.float32), obsm={"spatial": np.array(xy)})


@pytest.fixture(scope="module")
def ready(predicted_once):
    """A predicted slide with groups, markers and pathways."""
    sdata = deepcopy(predicted_once)
    table = sdata["deepspot_spots"]
    table.obs["half"] = pd.Categorical(np.where(np.arange(table.n_obs) % 2, "a", "b"))
    ds.tl.markers(sdata, "half", alpha=1.0, min_logfoldchange=0.0)
    ds.tl.enrich(sdata, {"SET": list(table.var_names[:4])})
    net = pd.DataFrame({"source": "P", "target": table.var_names[:6], "weight": 1.0})
    ds.tl.pathways(sdata, net, tmin=3)
    return sdata, net


@pytest.fixture(scope="module")
def tiff(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    pixels = np.full((600, 600, 3), 200, np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", metadata=None)
    return path


def calls(ready, model, encoder, all_slides, tiff):
    """Positional and keyword arguments of a call that works, for each function."""
    sdata, net = ready
    pair = {name: all_slides[name] for name in ("P1_S1", "P2_S1")}
    shared = {"patient_key": "patient", "genes": 5, "encoder": encoder, "seed": 0}
    fast = {"network": {"width": 4, "members": 1}, "training": {"epochs": 1, "max_epochs": 1, "gate": "record"}}
    gene, raw = model.card.genes[0], all_slides["P3_S1"]
    image = np.full((1000, 1000, 3), 200, np.uint8)
    genes = list(sdata["deepspot_spots"].var_names[:4])
    return {
        "io.from_anndata": ((spots(), image), {"mpp": 0.5, "diameter_um": 55.0}),
        "io.slide": ((tiff,), {"mpp": 0.5}),
        "models.train": ((pair,), shared | fast),
        "models.cross_validate": ((pair,), shared | {"models": ["ridge"]}),
        "pp.set_scale": ((raw,), {"mpp": 0.5}),
        "pp.spots": ((raw,), {"diameter_um": 55.0, "pitch_um": 100.0, "tissue": None, "key_added": "new"}),
        "pp.embed": ((raw, encoder), {"subspots": False}),
        "tl.predict": ((raw, model), {"encoder": encoder}),
        "tl.correct": ((sdata, model), {"encoder": encoder, "check_registration": False}),
        "tl.evaluate": ((sdata,), {}),
        "tl.markers": ((sdata, "half"), {"overwrite": True}),
        "tl.enrich": ((sdata, {"SET": genes}), {"overwrite": True}),
        "tl.pathways": ((sdata, net), {"tmin": 3, "overwrite": True}),
        "cohort.pseudobulk": (({"a": sdata},), {}),
        "cohort.bulk_agreement": ((patients(), patients()), {"match": "patient", "n_permutations": 10}),
        "cohort.classify": (
            (patients(),),
            {"label_key": "kind", "patient_key": "patient", "n_train": 20, "n_repeats": 1},
        ),
        "cohort.survival": (
            (patients(),),
            {
                "time_key": "time",
                "status_key": "event",
                "event": 1,
                "patient_key": "patient",
                "n_train": 20,
                "n_repeats": 1,
            },
        ),
        "pl.umap": ((sdata,), {"n_images": 2}),
        "pl.spatial": ((sdata, gene), {}),
        "pl.gallery": ((sdata, gene), {"n": 1}),
        "pl.markers": ((sdata,), {}),
        "pl.enrichment": ((sdata,), {}),
        "pl.pathways": ((sdata,), {}),
        "pl.regions": ((sdata, gene), {"groupby": "half"}),
        "pl.reliability": ((model,), {}),
    }


# Encoders are objects of users, `out` and Enrichr need a disk and a connection, and matplotlib checks its arguments.
LEFT_OUT = {
    "encoder",
    "ax",
    "out",
    "kwargs",
    "trainer_kwargs",
    "figsize",
    "cmap",
    "image_alpha",
    "gene_sets",
    "organism",
}


def is_slides(value):
    return hasattr(value, "shapes") or (
        isinstance(value, dict) and all(hasattr(one, "shapes") for one in value.values())
    )


def copied(slides):
    return {name: deepcopy(sdata) for name, sdata in slides.items()} if isinstance(slides, dict) else deepcopy(slides)


def taken(snapshot, slides):
    return {name: snapshot(one) for name, one in slides.items()} if isinstance(slides, dict) else snapshot(slides)


@pytest.fixture(scope="module")
def known(ready, model, encoder, all_slides, tiff):
    return calls(ready, model, encoder, all_slides, tiff)


NAMES = [
    *("io.from_anndata", "io.slide", "models.cross_validate", "models.train", "pp.embed", "pp.set_scale", "pp.spots"),
    *("tl.correct", "tl.enrich", "tl.evaluate", "tl.markers", "tl.pathways", "tl.predict", "cohort.bulk_agreement"),
    *("cohort.classify", "cohort.pseudobulk", "cohort.survival", "pl.enrichment", "pl.gallery", "pl.markers"),
    *("pl.pathways", "pl.regions", "pl.reliability", "pl.spatial", "pl.umap"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_wrong_arguments(known, snapshot, name, data):
    positional, keywords = known[name]
    namespace, function = name.split(".")
    call = getattr(getattr(ds, namespace), function)
    parameters = inspect.signature(call).parameters
    argument = data.draw(st.sampled_from([one for one in parameters if one not in LEFT_OUT]))
    value = data.draw(WRONG)
    assume(value is not None or not str(parameters[argument].annotation).endswith("None"))

    arguments = dict(zip(parameters, positional, strict=False)) | keywords
    slides = {one: copied(kept) for one, kept in arguments.items() if is_slides(kept)}
    before = {one: taken(snapshot, sdata) for one, sdata in slides.items() if one != argument}
    start, failed = time.perf_counter(), None
    try:
        call(**arguments | slides | {argument: value})
    except (ds.errors.DeepSpotError, FileNotFoundError) as error:
        failed = error
    plt.close("all")
    assert time.perf_counter() - start < MAX_SECONDS
    event("accepted" if failed is None else type(failed).__name__)
    if failed is None:
        return
    assert before == {one: taken(snapshot, slides[one]) for one in before}
    # A number may be valid, and its effect wrong: then the error is about that.
    if not isinstance(value, int | float) or isinstance(failed, ds.errors.InputTypeError):
        parts = [value, *(value if isinstance(value, list | tuple | dict | np.ndarray) else [])]
        names = {argument.removesuffix("_key").rstrip("s"), *map(repr, parts), *filter(None, map(str, parts))}
        assert any(one.lower() in str(failed).lower() for one in names), str(failed)


def shortened(value, n):
    """Return slides and tables with their first `n` spots or patients."""
    if isinstance(value, dict) and is_slides(value):
        return {name: shortened(one, n) for name, one in value.items()}
    if isinstance(value, AnnData):
        return value[:n].copy()
    if not hasattr(value, "shapes") or not hasattr(value, "tables"):
        return value
    sdata = deepcopy(value)
    for name, frame in list(sdata.shapes.items()):
        sdata.shapes[name] = frame.iloc[: max(n, 1)]  # SpatialData refuses empty ones
    for table in sdata.tables.values():
        table._inplace_subset_obs(slice(n))  # as scanpy's filters do
    return sdata


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_few_spots_or_patients(known, name, n):
    positional, keywords = known[name]
    namespace, function = name.split(".")
    start = time.perf_counter()
    with suppress(ds.errors.DeepSpotError):
        getattr(getattr(ds, namespace), function)(*(shortened(value, n) for value in positional), **keywords)
    assert time.perf_counter() - start < MAX_SECONDS
