import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from spatialdata import deepcopy

import deepspot as ds
from deepspot._stats.ceiling import ceiling

ARRAY = {"pitch_um": 100.0, "layout": "hexagonal"}


def test_card_has_geometry_encoder_and_training_slides(quick_model):
    card = quick_model.card
    assert [(s.slide, s.patient, s.spots) for s in card.slides] == [("P1_S1", "P1", 30), ("P2_S1", "P2", 30)]
    assert card.geometry.tile.model_dump() == {"tile_um": 55.0, "input_px": 32, "grid": 3}
    assert card.geometry.neighbors.model_dump() == {"kind": "radius", "reach": 150.0, "cap": 8} | ARRAY
    assert (card.encoder.name, card.encoder_fingerprint, card.dim) == ("mean_color", "colors 0-8", 27)
    assert len(card.genes) == 10
    assert card.depth == "all measured genes"


@pytest.mark.parametrize(("requested", "said"), [({}, 5000), ({"genes": 60}, 60), ({"genes": 10}, None)])
def test_a_panel_with_fewer_genes_than_requested_is_taken_whole(slides, quick, log, requested, said):
    """As on Xenium: the default of 5,000 is more than a panel has."""
    for sdata in slides.values():
        panel = sdata["table"][:, :40].copy()
        del sdata.tables["table"]
        sdata["table"] = panel
    quick = {name: value for name, value in quick.items() if name != "genes"} | requested
    ranked = np.all([(sdata["table"].X > 0).sum(axis=0) >= 3 for sdata in slides.values()], axis=0)
    model = ds.models.train(slides, **quick)
    assert len(model.card.genes) == (int(ranked.sum()) if said else 10)
    lines = [line for line in log if "all of them are taken" in line]
    assert len(lines) == bool(said)
    assert not said or f"There are {ranked.sum()} genes that can be ranked, fewer than `genes` = {said:,}" in lines[0]


def test_training_adds_features_and_nothing_else(slides, quick):
    before = {name: sdata.tables["table"].copy() for name, sdata in slides.items()}
    ds.models.train(slides, **quick)
    for name, sdata in slides.items():
        assert sorted(sdata.tables) == ["mean_color_spots", "table"]
        assert (sdata.tables["table"].X != before[name].X).nnz == 0


def test_features_are_embedded_once(slides, quick):
    ds.models.train(slides, **quick)
    assert quick["encoder"].n_tiles == 2 * 30 * 10
    ds.models.train(slides, **quick)
    assert quick["encoder"].n_tiles == 2 * 30 * 10


def test_shuffled_tables_train_the_same_model(slides, quick):
    reference = ds.models.train(slides, **quick)
    for sdata in slides.values():
        table = sdata.tables["table"]
        order = np.random.default_rng(0).permutation(len(table))
        genes = np.random.default_rng(1).permutation(table.n_vars)
        del sdata.tables["table"]
        sdata.tables["table"] = table[order, genes].copy()
    shuffled = ds.models.train(slides, **{**quick, "genes": reference.card.genes})
    np.testing.assert_allclose(shuffled.scaler.mean, reference.scaler.mean, rtol=1e-5)
    first, second = (m.members[0].phi[0].weight.detach().numpy() for m in (reference, shuffled))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_unmeasured_spots_are_used_as_neighbors_only(slide, quick):
    table = slide.tables["table"]
    del slide.tables["table"]
    slide.tables["table"] = table[:20].copy()
    model = ds.models.train(slide, **quick)
    assert model.card.slides[0].spots == 20
    assert slide.tables["mean_color_spots"].n_obs == 30


def test_one_patient_trains_for_the_fixed_number_of_epochs(slide, quick):
    model = ds.models.train(slide, **{**quick, "patient_key": None})
    assert model.card.epochs == 3
    assert set(model.history["member"]) == {"member_1"}


def test_with_several_patients_one_is_held_out_to_choose_the_number_of_epochs(quick_model):
    assert set(quick_model.history["member"]) == {"search", "member_1"}


def test_fit_gets_slide_and_patient_of_every_spot(slides, quick, monkeypatch):
    seen = {}

    def fit(self, bags, values, **options):
        seen.update(options, n=len(bags))
        raise InterruptedError

    monkeypatch.setattr(ds.models.DeepSpot, "fit", fit)
    with pytest.raises(InterruptedError):
        ds.models.train(slides, **quick)
    assert list(seen["patients"]) == ["P1"] * 30 + ["P2"] * 30
    assert list(seen["slides"]) == ["P1_S1"] * 30 + ["P2_S1"] * 30
    np.testing.assert_array_equal(seen["rows"], np.arange(60))


def test_depth_is_passed_to_estimators_that_take_it(slides, quick, monkeypatch):
    seen = {}

    def fit(self, bags, values, *, rows, slides, patients, depth, genes, trainer_kwargs):
        seen.update(depth=depth)
        raise InterruptedError

    monkeypatch.setattr(ds.models.DeepSpot, "fit", fit)
    with pytest.raises(InterruptedError):
        ds.models.train(slides, **quick)
    depth = [np.asarray(slide.tables["table"].X.sum(axis=1)).ravel() for slide in slides.values()]
    np.testing.assert_array_equal(seen["depth"], np.concatenate(depth))


def test_mixed_panels_train_together(slides, quick):
    table = slides["P2_S1"].tables["table"]
    del slides["P2_S1"].tables["table"]
    slides["P2_S1"].tables["table"] = table[:, 5:].copy()
    genes = list(table.var_names[:10])
    model = ds.models.train(slides, **{**quick, "genes": genes})
    assert model.card.genes == genes
    assert model.card.depth == "the 55 genes that all training slides share"


def test_configurations_are_objects_or_mappings(slides, quick, tmp_path):
    objects = {"keys": ds.models.SlideKeys(table_key="table"), "tiles": ds.models.TileConfig(tile_um=60, radius_um=120)}
    mappings = {"keys": {"table_key": "table"}, "tiles": {"tile_um": 60, "radius_um": np.float32(120)}}
    card = {"name": "mine", "tissue": "skin", "license": "MIT"}
    trainer = {"default_root_dir": tmp_path}
    first, second = (ds.models.train(slides, **quick, **look, card=card) for look in (objects, mappings))
    assert first.fingerprint == second.fingerprint
    assert first.card.geometry.neighbors.reach == 120
    assert (first.card.name, first.card.tissue, first.card.license) == ("mine", "skin", "MIT")
    kept = ds.models.train(slides, **quick, **objects, trainer_kwargs=trainer)
    assert kept.fingerprint == first.fingerprint
    assert list(tmp_path.rglob("done.pt"))


def test_array_boxes_are_the_rule_of_the_paper(slides, quick):
    model = ds.models.train(slides, **{**quick, "preset": "paper", "network": {"width": 4}})
    assert model.card.geometry.neighbors.model_dump() == {"kind": "box", "reach": 1.0, "cap": 8} | ARRAY
    assert model.card.preset == "paper"


def test_the_radius_of_the_paper_in_array_units(slides, quick):
    model = ds.models.train(slides, **quick, tiles={"array_box": 2})
    assert model.card.geometry.neighbors.model_dump() == {"kind": "box", "reach": 2.0, "cap": 24} | ARRAY


def test_mapping_of_patients_and_list_of_slides(slides, quick):
    # Names that differ by blanks alone are one patient, not two.
    model = ds.models.train(list(slides.values()), **{**quick, "patient_key": {"slide_1": "X", "slide_2": "X "}})
    assert [s.patient for s in model.card.slides] == ["X", "X"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"patient_key": None}, ValueError, "need `patient_key`"),
        ({"patient_key": "donor"}, KeyError, "donor"),
        ({"patient_key": {"P1_S1": "a"}}, KeyError, "P2_S1"),
        ({"genes": 5000, "min_detected": 1.0}, ValueError, r"too few spots .*`min_detected="),
        ({"genes": ["TP53"]}, KeyError, "TP53"),
        ({"keys": {"layer": "raw"}}, KeyError, "raw"),
        ({"keys": {"layer": "expected"}}, ValueError, "does not contain raw counts"),
        ({"keys": {"table_key": "counts"}}, KeyError, "counts"),
        ({"encoder": "resnet51"}, KeyError, "lite0_stats"),
        ({"preset": "best"}, KeyError, "published"),
        ({"tiles": {"tile_um": -1}}, ValueError, "tile_um: Input should be greater than 0"),
        ({"tiles": {"tile": 55}}, ValueError, r"tile: .* Fields: \['tile_um', "),
        ({"tiles": ds.models.TileConfig(tiles_px=32)}, ValueError, "must not set `tiles_px`"),
        ({"keys": {"image": "he"}}, ValueError, r"Fields: \['image_key', "),
        ({"min_detected": 30}, ValueError, "share from 0 to 1"),
        ({"genes": True}, TypeError, "number or a list"),
        ({"card": {"tissue": None}}, ValueError, "tissue: Input should be a valid string"),
        ({"card": {"licence": "MIT"}}, ValueError, r"Fields: \['name', 'tissue', 'license'\]"),
        ({"patient_key": {"P1_S1": "a", "P2_S1": None}}, ValueError, "no patient for slides"),
        ({"patient_key": {"P1_S1": "a", "P2_S1": "\udcff"}}, ValueError, "characters that files cannot store"),
        ({"network": {"depth": 3}}, ValueError, "`network` does not fit"),
        ({"device": "tpu"}, ValueError, "`device`"),
    ],
)
def test_bad_input_is_named_before_anything_is_added(slides, quick, change, error, message):
    with pytest.raises(error, match=message):
        ds.models.train(slides, **{**quick, **change})
    assert all(list(sdata.tables) == ["table"] for sdata in slides.values())


def test_a_slide_of_two_patients_is_refused(slide, quick):
    patients = slide.tables["table"].obs["patient"].astype(str).to_numpy().copy()
    patients[0] = "P9"
    slide.tables["table"].obs["patient"] = patients
    with pytest.raises(ValueError, match="must be of one patient"):
        ds.models.train(slide, **quick)


def test_array_positions_can_be_added_after_the_fact(slide, quick):
    table = slide.tables["table"]
    positions = table.obs[["array_row", "array_col"]].copy()
    table.obs = table.obs.drop(columns=["array_row", "array_col"])
    paper = {**quick, "preset": "paper", "network": {"width": 4}, "training": {"epochs": 1}}
    with pytest.raises(ValueError, match="array_row"):
        ds.models.train(slide, **paper)
    assert list(slide.tables) == ["table"]
    ds.pp.embed(slide, quick["encoder"])
    slide.tables["table"].obs[positions.columns] = positions
    assert ds.models.train(slide, **paper).card.geometry.neighbors.kind == "box"


def test_identifiers_of_another_type_are_shown(slide, quick):
    slide.shapes["spots"].index = slide.shapes["spots"].index.astype(str)
    with pytest.raises(ValueError, match="no spot in common"):
        ds.models.train(slide, **quick)


def test_a_single_spot_needs_a_radius(slide, quick):
    slide.shapes["spots"] = slide.shapes["spots"].iloc[:1]
    with pytest.raises(ValueError, match="radius_um"):
        ds.models.train(slide, **quick)


def test_numpy_numbers_and_slide_names_that_are_not_text_are_accepted(slides, quick):
    named = dict(enumerate(slides.values()))
    model = ds.models.train(named, **{**quick, "genes": np.int64(5), "seed": np.int64(3)})
    assert [s.slide for s in model.card.slides] == ["0", "1"]
    assert model.card.seed == 3


def test_objects_that_are_not_slides_are_errors(quick):
    with pytest.raises(TypeError, match="is a str"):
        ds.models.train(["slide.zarr"], **quick)
    with pytest.raises(ValueError, match="empty"):
        ds.models.train([], **quick)


def test_slides_of_different_spot_size_need_a_tile(slides, quick):
    slides["P2_S1"].shapes["spots"]["diameter_um"] = 100.0
    with pytest.raises(
        ValueError, match=r"differ in their diameter in µm: \{'P1_S1': 55\.0, 'P2_S1': 100\.0\}.*tile_um"
    ):
        ds.models.train(slides, **quick)
    assert ds.models.train(slides, **quick, tiles={"tile_um": 60}).card.geometry.tile.tile_um == 60


def test_slides_of_unknown_spot_size_need_a_tile(slides, quick):
    shapes = slides["P1_S1"].shapes["spots"]
    polygons = shapes.set_geometry(shapes.buffer(30)).drop(columns=["radius", "diameter_um"])
    slides["P1_S1"].shapes["spots"] = polygons
    for some in (slides["P1_S1"], slides):
        with pytest.raises(
            ValueError, match=r"size of a spot is unknown on slides \[.*'diameter_um'.*tile_um"
        ) as error:
            ds.models.train(some, **quick)
        assert "differ" not in str(error.value)


def test_every_model_has_a_gate(slides, quick):
    bound = ds.models.train(slides, **{**quick, "training": {"epochs": 3, "max_epochs": 3}})
    assert (bound.card.gate.unit, bound.card.gate.n) == ("patients", 2)
    assert bound.card.gate.applied
    reliability = bound.card.reliability
    assert len(reliability.r) == len(reliability.r_beyond_axis) == len(reliability.r_ceiling) == 10
    assert all(0 < value <= 1 for value in reliability.r_ceiling if value is not None)
    measured = [slide.tables["table"][:, bound.card.genes].copy() for slide in slides.values()]
    highest = [
        ceiling(table.X, np.asarray(slide.tables["table"].X.sum(axis=1)).ravel())
        for table, slide in zip(measured, slides.values(), strict=True)
    ]
    np.testing.assert_allclose(np.array(reliability.r_ceiling, dtype=float), pd.DataFrame(highest).mean(), atol=1e-4)
    # `train` records the gate even if it is switched off.
    off = ds.models.train(slides, **{**quick, "training": {"epochs": 3, "max_epochs": 3, "gate": "off"}})
    assert not off.card.gate.applied
    assert off.weight == 1


def test_oversampling_repeats_spots_and_needs_a_known_method(slides, quick, monkeypatch):
    seen = {}

    def fit(self, bags, values, **options):
        seen.update(options)
        raise InterruptedError

    monkeypatch.setattr(ds.models.DeepSpot, "fit", fit)
    with pytest.raises(InterruptedError):
        ds.models.train(slides, **quick, oversample="leiden")
    assert set(seen["rows"]) == set(range(60))
    assert len(seen["rows"]) >= 60
    with pytest.raises(KeyError, match="leiden"):
        ds.models.train(slides, **quick, oversample="twice")


def test_copies_of_a_slide_are_refused(slides, quick):
    copy = deepcopy(slides["P1_S1"])
    copy["table"].obs["patient"] = "P3"
    copy.tables["table"] = copy["table"][::-1, ::-1].copy()
    with pytest.raises(ValueError, match=r"'P1_S1' \(patient 'P1'\) and 'again' \(patient 'P3'\) have the same counts"):
        ds.models.train({**slides, "again": copy}, **quick)
    one = dict.fromkeys(["P1_S1", "again"], "P1")  # the gate would hold out one of the slides
    with pytest.raises(ValueError, match="have the same counts"):
        ds.models.train({"P1_S1": slides["P1_S1"], "again": copy}, **{**quick, "patient_key": one})
    assert quick["encoder"].n_tiles == 0


def test_a_slide_of_few_spots_is_named(slides, quick):
    slides["P2_S1"].tables["table"] = slides["P2_S1"]["table"][:2].copy()
    with pytest.raises(ValueError, match=r"Slide 'P2_S1' of patient 'P2' has 2 measured spots.*at least 3.*Leave"):
        ds.models.train(slides, **quick)
    assert quick["encoder"].n_tiles == 0


def test_patients_as_a_series(slides, quick):
    numbered = dict(enumerate(slides.values()))
    model = ds.models.train(numbered, **{**quick, "patient_key": pd.Series(["A", "B"])})
    assert {slide.slide: slide.patient for slide in model.card.slides} == {"0": "A", "1": "B"}
    with pytest.raises(ValueError, match="`patient_key` names slide '1' several times"):
        ds.models.train(numbered, **{**quick, "patient_key": pd.Series(["A", "B", "C"], [0, 1, 1])})
    with pytest.raises(TypeError, match=r"`patient_key` must be a column of `obs`, or a mapping.*got list"):
        ds.models.train(slides, **{**quick, "patient_key": ["A", "B"]})


def test_sparse_arrays_train_the_same_model(slides, quick, quick_model):
    for sdata in slides.values():
        sdata["table"].X = csr_array(sdata["table"].X)
    assert ds.models.train(slides, **quick).fingerprint == quick_model.fingerprint


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)]
)
def test_seeds_are_checked(slides, quick, seed, error):
    with pytest.raises(error, match=r"`seed` must be .*, got"):
        ds.models.train(slides, **{**quick, "seed": seed})
    assert quick["encoder"].n_tiles == 0


def test_a_model_without_a_network_has_no_epochs(slides, quick, log, monkeypatch):
    from deepspot.models._confidence import assess as module

    def ridge_is_better(*args, **options):
        gate, *rest = assess(*args, **options)
        return gate.model_copy(update={"weight": 0.0, "verdict": "ridge"}), *rest

    assess = module.assess
    monkeypatch.setattr(module, "assess", ridge_is_better)
    ds.models.train(slides, **quick)
    assert log[-1].startswith("Trained ridge only: ")
    assert not any("0 epochs" in line for line in log)
