"""Tests for leakage: nothing fitted or chosen may depend on the held-out side."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack

from deepspot._stats.normalize import normalize
from deepspot.models._cross_validation.factories import System
from deepspot.models._cross_validation.folds import fold_data, outer_splits, plan_fold, plan_folds


def changed(slides, number, seed=9):
    """Other counts on one slide."""
    counts = csr_matrix(np.random.default_rng(seed).poisson(50, slides[number].counts.shape))
    return [replace(slide, counts=counts) if i == number else slide for i, slide in enumerate(slides)]


def without(slide, genes):
    keep = ~slide.genes.isin(genes)
    return replace(slide, counts=slide.counts[:, keep], genes=slide.genes[keep])


def test_a_gene_that_varies_only_on_the_held_out_patient_is_not_chosen(cohort):
    slides, _, centers = cohort(3, signal=0.0)
    wild = np.random.default_rng(0).permutation([0] * 20 + [60] * 20)[:, None]
    slides = [
        replace(
            slide,
            genes=slide.genes.append(type(slide.genes)(["wild"])),
            counts=csr_matrix(hstack([slide.counts, wild if slide.patient == "P2" else np.full((40, 1), 30)])),
        )
        for slide in slides
    ]
    for fold, inner in plan_folds(slides, centers, 10):
        if fold.split.name == "P2":
            assert "wild" not in fold.genes
        for part in inner:  # two training patients, one of them in the inner training side
            assert ("wild" in part.genes) == (part.split.train[0].patient == "P2")


@pytest.mark.parametrize("genes", [10, [f"g{i}" for i in range(12)]])
def test_counts_of_the_held_out_patient_change_nothing_on_the_training_side(cohort, genes):
    slides, bags, centers = cohort(3)
    before, after = (plan_folds(these, centers, genes) for these in (slides, changed(slides, 2)))
    for fold, other in zip([before[2][0], *before[2][1]], [after[2][0], *after[2][1]], strict=True):
        assert fold.genes == other.genes
        assert list(fold.depth_genes) == list(other.depth_genes)
        a, b = (fold_data(these, bags).train for these in (fold, other))
        np.testing.assert_array_equal(a.targets, b.targets)
        np.testing.assert_array_equal(a.rows, b.rows)
    # In the other folds the patient is in the training set.
    a, b = (fold_data(these[0][0], bags).train for these in (before, after))
    assert (a.targets != b.targets).any()


def test_counts_of_the_held_out_patient_do_not_change_its_prediction(cohort, run, tuned, tmp_path):
    slides, bags, centers = cohort(3)
    for name, these in (("before", slides), ("after", changed(slides, 2))):
        run((these, bags, centers), [tuned], folder=tmp_path / name)
    found = []
    for name in ("before", "after"):
        outer = [np.load(path) for path in (tmp_path / name).glob("*.npz")]
        mine = [file for file in outer if '"P2"' in str(file["about"]) and "prediction_0" in file.files]
        assert len(mine) == 1
        found.append(mine[0]["prediction_0"])
    assert found[0].dtype == np.float32
    np.testing.assert_array_equal(*found)


class Spy:
    """Estimator that records its input."""

    seen: list = []  # noqa: RUF012

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        Spy.seen.append((bags, targets, rows, slides, patients))
        self.genes = targets.shape[1]
        return self

    def predict(self, bags):
        return np.zeros((len(bags), self.genes))


def test_an_estimator_is_never_given_anything_of_the_held_out_patient(cohort, run):
    Spy.seen.clear()
    slides, bags, centers = cohort(3, 2)
    system = System("spy", lambda **_: Spy(), ({"a": 1}, {"a": 2}))
    run((slides, bags, centers), [system])
    assert len(Spy.seen) == 3 * (2 * 2 + 1)
    for number, (given, targets, rows, names, patients) in enumerate(Spy.seen):
        held = f"P{number // 5}"
        assert held not in set(patients)
        assert not any(name.startswith(held) for name in names)
        assert len(given) == len(targets) == len(names)
        assert np.isfinite(targets[rows]).all()
        foreign = np.concatenate([bags[slide.name].spot for slide in slides if slide.patient == held])
        assert not np.isin(foreign, given.spot).any()


def test_within_one_slide_the_targets_of_the_held_out_strip_are_hidden(cohort):
    slides, bags, centers = cohort(2)
    for fold, inner in plan_folds(slides, centers, 10):
        for part in inner:
            data = fold_data(part, bags)
            held = data.test[0].rows
            assert part.split.unit == "blocks"
            assert data.test[0].patient != fold.split.name
            assert np.isnan(data.train.targets[held]).all()
            assert not set(held) & set(data.train.rows)


def test_depth_is_summed_over_genes_that_the_training_slides_share(cohort):
    slides, bags, _ = cohort(4)
    slides[1] = without(slides[1], ["g0", "g1"])
    slides[2] = without(slides[2], ["g1", "g2", "g5"])
    fold = plan_fold(outer_splits(slides, "patient")[2], 10, 0.0)
    assert set(slides[0].genes) - set(fold.depth_genes) == {"g0", "g1"}  # not what the held-out panel lacks
    data = fold_data(fold, bags)
    held = slides[2]
    shared = held.genes.get_indexer(fold.depth_genes[fold.depth_genes.isin(held.genes)])
    known = [gene for gene in fold.genes if gene in held.genes]
    depth = np.asarray(held.counts[:, shared].sum(axis=1)).ravel()
    expected = normalize(held.counts[:, held.genes.get_indexer(known)], depth).toarray()
    columns = [fold.genes.index(gene) for gene in known]
    np.testing.assert_array_equal(data.test[0].measured[:, columns], expected)
    lacking = [number for number, gene in enumerate(fold.genes) if gene not in held.genes]
    assert np.isnan(data.test[0].measured[:, lacking]).all()


def test_a_wider_panel_of_the_held_out_patient_changes_no_depth(cohort):
    slides, bags, _ = cohort(4)
    narrow = [without(slide, ["g0", "g1", "g2"]) for slide in slides]
    wide = [slides[0], *narrow[1:]]
    a, b = (fold_data(plan_fold(outer_splits(these, "patient")[0], 10, 0.0), bags) for these in (narrow, wide))
    assert a.genes == b.genes
    np.testing.assert_array_equal(a.test[0].measured, b.test[0].measured)


def test_named_genes_are_ranked_on_the_training_side_and_left_out_if_unmeasured_there(cohort):
    slides, _, _ = cohort(4)
    slides = [without(slide, ["g3"]) if slide.patient != "P0" else slide for slide in slides]
    named = ["g3", "g9", "g4", "g20"]
    folds = [plan_fold(split, named, 0.0) for split in outer_splits(slides, "patient")]
    assert set(folds[0].genes) == {"g9", "g4", "g20"}
    assert all(fold.genes[-1] == "g3" for fold in folds[1:])  # not measured on all training slides: no rank
    ranking = plan_fold(outer_splits(slides, "patient")[0], 29, 0.0).genes
    assert folds[0].genes == [gene for gene in ranking if gene in named]
