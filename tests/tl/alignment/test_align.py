import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot._stats.metrics import pearson
from deepspot._stats.spatial_null import surrogates
from deepspot.tl._alignment.align import MAX_SPOTS, align, describe_move
from deepspot.tl._alignment.moves import AS_IS, SYMMETRIES, make_moves
from deepspot.tl._alignment.null import Agreement, shuffles, standardize

PITCH = 100.0


def array(kind, rows, columns):
    """Spots of a square or hexagonal array, in µm."""
    row, column = (part.ravel() for part in np.mgrid[:rows, :columns])
    if kind == "squares":
        return np.column_stack([column, row]) * PITCH
    return np.column_stack([column + row % 2 / 2, row * np.sqrt(3) / 2]) * PITCH


def smooth(rng, genes=20, waves=30, length=5.0):
    """A random smooth field of several genes, as a function of positions in µm."""
    frequency = rng.normal(scale=2 * np.pi / (length * PITCH), size=(2, waves))
    phase, weight = rng.uniform(0, 2 * np.pi, waves), rng.normal(size=(waves, genes))
    return lambda um: np.cos(um @ frequency + phase) @ weight / np.sqrt(waves)


def apply(matrix, um):
    return um @ matrix[:2, :2].T + matrix[:2, 2]


def displaced(um, symmetry, shift, rng, noise=0.5):
    """Simulate a misaligned slide: measured values, apparent positions, predicted values, true positions."""
    field, middle = smooth(rng), (um.min(axis=0) + um.max(axis=0)) / 2
    truth = (um - middle) @ SYMMETRIES[symmetry].T + middle + np.asarray(shift) * PITCH
    inside = ((truth > um.min(axis=0) - 1) & (truth < um.max(axis=0) + 1)).all(axis=1)
    measured = field(truth[inside])
    return measured + rng.normal(scale=noise, size=measured.shape), um[inside], field(um), truth[inside]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["squares", "hexagons"]),
    symmetry=st.sampled_from(list(SYMMETRIES)),
    shift=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    seed=st.integers(0, 1000),
)
def test_the_best_move_corrects_a_simulated_misalignment(kind, symmetry, shift, seed):
    measured, seem, predicted, truth = displaced(array(kind, 11, 10), symmetry, shift, np.random.default_rng(seed))
    moves = make_moves(seem, array(kind, 11, 10), PITCH, 2)
    enough = np.flatnonzero(moves.overlap >= 0.5)
    r = Agreement(moves.nearest[enough], standardize(predicted)).r(standardize(measured))
    best = enough[np.argmax(r * np.sqrt(moves.overlap[enough]))]
    off = np.linalg.norm(apply(moves.matrix(best), seem) - truth, axis=1)
    assert np.median(off) < 0.75 * PITCH


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 8 * 25 - 1), kind=st.sampled_from(["squares", "hexagons"]))
def test_a_move_is_its_matrix(number, kind):
    um = array(kind, 6, 7) + 1000
    moves = make_moves(um, um, PITCH, 1)
    moved = apply(moves.matrix(number), um)
    distance = np.linalg.norm(moved[:, None] - um[None], axis=2)
    near = distance.min(axis=1) < 0.75 * PITCH
    np.testing.assert_array_equal(moves.nearest[number] >= 0, near)
    found = distance[np.arange(len(um)), moves.nearest[number]][near]
    np.testing.assert_allclose(found, distance.min(axis=1)[near], atol=1e-9)


def test_the_first_move_is_the_identity():
    um = array("squares", 4, 5)
    moves = make_moves(um, um, PITCH, 1)
    np.testing.assert_array_equal(moves.matrix(0), np.eye(3))
    np.testing.assert_array_equal(moves.nearest[0], np.arange(20))


def test_the_eight_symmetries_are_a_group():
    known = {tuple(linear.ravel()) for linear in SYMMETRIES.values()}
    assert len(known) == 8
    assert {tuple((a @ b + 0.0).ravel()) for a in SYMMETRIES.values() for b in SYMMETRIES.values()} == known


def test_clockwise_is_clockwise_in_an_image():
    right, down = np.array([1, 0]), np.array([0, 1])
    np.testing.assert_array_equal(SYMMETRIES["turned clockwise"] @ right, down)


@pytest.fixture
def pair():
    rng, um = np.random.default_rng(3), array("squares", 9, 9)
    predicted = smooth(rng)(um)
    return um, predicted + rng.normal(scale=0.5, size=predicted.shape), predicted


def test_agreement_is_the_mean_r_over_genes_if_all_spots_overlap(pair):
    um, measured, predicted = pair
    nearest = np.random.default_rng(0).permuted(np.tile(np.arange(len(um)), (5, 1)), axis=1)
    r = Agreement(nearest, standardize(predicted)).r(standardize(measured))
    np.testing.assert_allclose(r, [pearson(predicted[at], measured).mean() for at in nearest], atol=1e-5)


def test_agreement_is_close_to_it_if_few_spots_overlap(pair):
    um, measured, predicted = pair
    moves = make_moves(um, um, PITCH, 3)
    enough = moves.nearest[moves.overlap >= 0.5]
    r = Agreement(enough, standardize(predicted)).r(standardize(measured))
    exact = [pearson(predicted[at[at >= 0]], measured[at >= 0]).mean() for at in enough]
    assert np.abs(r - exact).max() < 0.1


def test_contributions_approximate_leaving_out_a_spot(pair):
    um, measured, predicted = pair
    moves = make_moves(um, um, PITCH, 1)
    a, b, nearest = standardize(measured), standardize(predicted), moves.nearest[[0, 7, 30]]
    whole, contributions = Agreement(nearest, b).r(a), Agreement(nearest, b).contributions(a)
    np.testing.assert_allclose(contributions.sum(axis=1), 0, atol=1e-4)
    for spot in (0, 17, 40):
        without = nearest.copy()
        without[:, spot] = -1
        np.testing.assert_allclose(whole - Agreement(without, b).r(a), contributions[:, spot], atol=2e-3)


def test_surrogates_preserve_genes_and_patches_but_not_positions(pair):
    um, measured, _ = pair
    field, rng = standardize(measured), np.random.default_rng(0)
    right = [(i, i + 1) for i in range(len(um) - 1) if um[i + 1, 0] > um[i, 0]]
    one, other = np.array(right).T

    def smoothness(values):
        return float((values[one] * values[other]).sum(axis=1).mean())

    turned = list(surrogates(field, um, 15, rng))
    for values in turned:
        np.testing.assert_allclose(values.T @ values, field.T @ field, atol=1e-3)
    assert np.mean([smoothness(values) for values in turned]) > 0.7 * smoothness(field) > 0.15
    assert abs(np.mean([smoothness(values) for values in shuffles(field, 20, rng)])) < 0.1
    assert abs(np.mean([pearson(values, field).mean() for values in turned])) < 0.15


def test_an_aligned_slide(pair):
    um, measured, predicted = pair
    result = align(measured, um, predicted, um)
    assert (result.verdict, result.best, result.gain, result.gain_low) == ("aligned", 0, 0.0, 0.0)
    np.testing.assert_array_equal(result.matrix, np.eye(3))
    assert result.r == pytest.approx(pearson(predicted, measured).mean(), abs=1e-5)
    assert repr(result) == f"Aligned: measured spots match the image (r {result.r:.2f} without a move)"
    assert result._repr_html_().startswith("<p><b>Aligned</b>: measured spots match the image (r")


def test_a_mirrored_slide_is_detected_and_described():
    rng = np.random.default_rng(1)
    measured, seem, predicted, truth = displaced(array("squares", 10, 10), "mirrored left-right", (2, 0), rng)
    result = align(measured, seem, predicted, array("squares", 10, 10))
    assert result.verdict == "misaligned"
    assert result.move == "mirrored left-right and then moved 200 µm right"
    assert 0 < result.gain_low < result.gain == pytest.approx(result.r - result.r_as_is)
    np.testing.assert_allclose(apply(result.matrix, seem), truth, atol=1e-6)
    row = result.table.loc[result.best]
    assert (row["dx_pitches"], row["dy_pitches"], row["r"]) == pytest.approx((2, 0, result.r))
    assert f"{result.r:.2f} when mirrored left-right and then moved 200 µm right" in repr(result)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_counts_are_undecided(pair, seed):
    um, measured, predicted = pair
    shuffled = np.random.default_rng(seed).permutation(measured)
    assert align(shuffled, um, predicted, um).verdict == "undecided"


@pytest.mark.parametrize("seed", range(3))
def test_smooth_fields_of_other_tissue_are_undecided(pair, seed):
    um, _, predicted = pair
    other = smooth(np.random.default_rng(100 + seed))(um)
    assert align(other, um, predicted, um).verdict == "undecided"


def test_symmetric_tissue_is_not_misaligned():
    rng, um = np.random.default_rng(5), array("squares", 10, 10)
    field = smooth(rng)
    predicted = field(um) + field(np.array([900, 0]) + um * [-1, 1])
    measured = predicted + rng.normal(scale=0.5, size=predicted.shape)
    assert align(measured, um, predicted, um).verdict == "aligned"


def test_moves_with_little_overlap_have_no_r(pair):
    um, measured, predicted = pair
    table = align(measured, um, predicted, um, max_shift=6).table
    np.testing.assert_array_equal(table["r"].isna(), table["overlap"] < 0.5)
    assert table["r"].isna().any()


def test_a_prediction_of_half_the_slide_is_refused(pair):
    um, measured, predicted = pair
    few = um[:, 0] < 300
    with pytest.raises(ValueError, match=r"33% of the measured spots.*Predict all spots"):
        align(measured, um, predicted[few], um[few])


def test_seed_and_sampling_of_large_slides():
    rng, um = np.random.default_rng(2), array("hexagons", 26, 26)
    predicted = smooth(rng, genes=5)(um)
    first, second = (align(predicted, um, predicted, um, max_shift=1, seed=4) for _ in range(2))
    assert first.n_spots == MAX_SPOTS < len(um)
    assert first.verdict == "aligned"
    assert (first.p_best, first.r) == (second.p_best, second.r)


@pytest.mark.parametrize(
    ("move", "text"),
    [
        ((AS_IS, 0.0, 0.0), "not moved"),
        ((AS_IS, -50.0, 0.2), "moved 50 µm left"),
        (("turned clockwise", 10.0, -20.0), "turned clockwise and then moved 10 µm right and 20 µm up"),
    ],
)
def test_moves_are_described(move, text):
    assert describe_move(*move) == text
