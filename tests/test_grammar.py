"""The grammar of the public API, which docs/contributing.md describes: a name that breaks it fails here."""

import inspect
from collections import defaultdict
from importlib import import_module

import pytest
from pydantic import BaseModel

import deepspot as ds

SPACES = [name for name in ds.__all__ if name not in ("clear_cache", "report", "report_cohort", "settings", "view")]
PUBLIC = {"report": ds.report, "report_cohort": ds.report_cohort, "view": ds.view} | {
    f"{space}.{name}": getattr(ds, space).__dict__[name]
    for space in SPACES
    for name in import_module(f"deepspot.{space}").__all__
}
FUNCTIONS = {name: item for name, item in PUBLIC.items() if inspect.isfunction(item)}
CLASSES = {
    name: item
    for name, item in PUBLIC.items()
    if inspect.isclass(item) and not issubclass(item, (BaseModel, BaseException)) and not name.startswith("errors.")
}
SIGNATURES = {name: inspect.signature(item) for name, item in (FUNCTIONS | CLASSES).items()}
PARAMETERS = [
    (name, parameter) for name, signature in SIGNATURES.items() for parameter in signature.parameters.values()
]
MOST_PARAMETERS = 16
# Adds nothing to the object: its result says whether the counts lie where the image says.
RETURNS_A_RESULT = {"tl.check_alignment"}
# A length in µm has one of these names.
LENGTHS = {"bin_um", "diameter_um", "grid_um", "pitch_um", "radius_um", "tile_um", "within_um"}
# Names that were in use for what has another name now, and words that are not spelled the American way.
REFUSED = {"copy", "distance_um", "group", "half", "key", "label", "licence", "patient", "sdatas", "spot_pitch_um"}
REFUSED |= {
    "spot_diameter_um",
    "status",
    "time",
    "tissue_area",
    "preservation",
    "unlabelled",
    "inplace",
    "random_state",
}
SAME_DEFAULT = ("batch_size", "coordinate_system", "device", "encoder", "image_key", "key_added", "layer", "layout")
SAME_DEFAULT += ("overwrite", "rounded", "seed", "shapes_key", "table_key", "token")
# A new element has a name of its own by default; these are entries and columns with a fixed one.
OWN_DEFAULT = {"key_added"}
# Pooled spots imitate the array of Visium; spots on whole slides are those of the paper.
OTHER_DEFAULT = {("pp.pool", "layout")}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith(("pp.", "tl."))])
def test_tools_take_an_object_add_to_it_and_return_nothing(name):
    signature = SIGNATURES[name]
    first = next(iter(signature.parameters.values()))
    assert (first.name, first.annotation) == ("sdata", "SpatialData")
    assert name in RETURNS_A_RESULT or signature.return_annotation == "None"


READERS = [name for name in FUNCTIONS if name.startswith(("io.", "datasets.")) and name != "io.export"]


@pytest.mark.parametrize("name", READERS)
def test_readers_return_an_object(name):
    returned = SIGNATURES[name].return_annotation
    assert returned == "Benchmark" if name.endswith("_bench") else "SpatialData" in returned


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("pl.")])
def test_plots_take_an_object_or_a_result_first_and_return_axes(name):
    parameters, returned = SIGNATURES[name].parameters, SIGNATURES[name].return_annotation
    results = {
        "alignment": "alignment",
        "benchmark": "cv",
        "ablation": "cv",
        "reliability": "model",
        "training": "model",
    }
    results |= {"cohort_size": "results", "slides": "slides"}
    results |= {"bulk_agreement": "results", "classification": "results", "survival": "results"}
    assert next(iter(parameters)) == results.get(name.removeprefix("pl."), "sdata")
    assert returned in ("Axes", "list[Axes]")
    assert "ax" in parameters


def test_export_takes_an_object_and_returns_the_path():
    assert next(iter(SIGNATURES["io.export"].parameters)) == "sdata"
    assert SIGNATURES["io.export"].return_annotation == "Path"


@pytest.mark.parametrize(
    "name", ["report", "view", "models.train", "models.cross_validate", "cohort.run", "cohort.pseudobulk"]
)
def test_what_comes_first(name):
    expected = {"report": "sdata", "view": "sdata", "cohort.run": "manifest"}.get(name, "slides")
    assert next(iter(SIGNATURES[name].parameters)) == expected


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_short_and_mostly_by_keyword(name):
    kinds = [parameter.kind for parameter in SIGNATURES[name].parameters.values()]
    assert len(kinds) <= MOST_PARAMETERS
    if name in FUNCTIONS:
        most = 3 if name == "cohort.run" else 2  # a list of slides, a model, and where the results go
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= most


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=lambda value: getattr(value, "name", value))
def test_parameters_have_the_name_of_what_they_are(name, parameter):
    assert parameter.name not in REFUSED
    assert not parameter.name.endswith("_um") or parameter.name in LENGTHS
    # Whatever names an element, a table entry or a column to look up is a key; `groupby` is scanpy's word.
    assert parameter.name not in ("image", "shapes", "table") or name in (
        "io.from_anndata",
        "io.predicted",
        "io.xenium",
    )  # a file


@pytest.mark.parametrize("parameter", SAME_DEFAULT)
def test_the_same_parameter_has_the_same_default_everywhere(parameter):
    defaults = defaultdict(list)
    for name, known in PARAMETERS:
        if (name, parameter) in OTHER_DEFAULT:
            continue
        if known.name == parameter and known.default is not inspect.Parameter.empty:
            defaults[known.default].append(name)
    if parameter in OWN_DEFAULT:
        assert all(default is None or isinstance(default, str) for default in defaults)
    else:
        assert len(defaults) == 1, dict(defaults)


@pytest.mark.parametrize("space", ["tl", "cohort", "datasets"])
def test_results_are_documented_but_no_part_of_the_functions(space):
    module = getattr(ds, space)
    results = [item for name, item in vars(module).items() if inspect.isclass(item) and name[0] != "_"]
    assert results
    assert all(item.__doc__ and item.__name__ not in module.__all__ for item in results)
