import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from deepspot._stats.normalize import LOG1P_10K, SCALES, check_counts, known_scale, most_variable, normalize

COUNTS = np.array([[1, 3, 0], [0, 0, 0], [10, 0, 30]])


@pytest.mark.parametrize("make", [csr_matrix, csc_matrix, np.asarray, lambda x: csr_matrix(x.astype(np.float32))])
def test_counts_pass(make):
    checked = check_counts(make(COUNTS), "X")
    np.testing.assert_array_equal(checked.toarray(), COUNTS)
    assert checked.format == "csr"


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0001])
def test_non_counts_are_refused(value):
    broken = COUNTS.astype(float)
    broken[0, 0] = value
    with pytest.raises(
        ValueError, match=r"sdata.tables\['t'\].X does not contain raw counts.*may already be normalized.*`layer"
    ):
        check_counts(broken, "sdata.tables['t'].X")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_counts_are_refused(value):
    broken = COUNTS.astype(float)
    broken[2, 2] = value
    with pytest.raises(ValueError, match="X contains values that are not finite"):
        check_counts(csr_matrix(broken), "X")


def test_other_scales():
    raw, million = (normalize(csr_matrix(COUNTS), scale=SCALES[name]) for name in ("log1p_counts", "log1p_cpm"))
    np.testing.assert_allclose(raw.toarray(), np.log1p(COUNTS), rtol=1e-6)
    expected = np.log1p([[250_000, 750_000, 0], [0, 0, 0], [250_000, 0, 750_000]])
    np.testing.assert_allclose(million.toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_rate_times_exposure_is_the_count(scale):
    depth = COUNTS.sum(axis=1).astype(float)
    rates = np.expm1(normalize(csr_matrix(COUNTS), scale=scale).toarray())
    np.testing.assert_allclose(rates * scale.exposure(depth)[:, None], COUNTS, rtol=1e-5)
    assert scale.exposure(depth)[1] == 0  # an empty spot was not measured
    assert rates.max() <= scale.most
    assert known_scale(scale.text) is scale


def test_highest_values():
    assert LOG1P_10K.highest == pytest.approx(9.2104403)
    assert SCALES["log1p_counts"].highest == np.inf
    assert known_scale("z") is None


def test_log1p_of_counts_per_ten_thousand():
    scaled = normalize(csr_matrix(COUNTS))
    expected = np.log1p([[2500, 7500, 0], [0, 0, 0], [2500, 0, 7500]])
    np.testing.assert_allclose(scaled.toarray(), expected, rtol=1e-6)
    assert scaled.dtype == np.float32


def test_depth_may_count_other_genes_too():
    scaled = normalize(csr_matrix(COUNTS), depth=np.array([8, 5, 40]))
    np.testing.assert_allclose(scaled.toarray()[0], np.log1p([1250, 3750, 0]), rtol=1e-6)


def test_agrees_with_scanpy(toy):
    import scanpy as sc

    table = toy["P1_S1"]["table"].copy()
    ours = normalize(check_counts(table.X, "X"))
    table.X = table.X.astype(np.float32)
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    np.testing.assert_allclose(ours.toarray(), table.X.toarray(), rtol=1e-5)


@pytest.fixture
def slides_of_counts():
    rng = np.random.default_rng(0)
    slides = []
    for _ in range(2):
        rate = np.repeat(np.linspace(2, 12, 40)[None], 80, axis=0)
        rate[:, :4] = np.where(np.arange(80)[:, None] < 40, 10, 0.1)  # four genes that vary, of the same mean
        counts = rng.poisson(rate)
        counts[:, 39] = 0
        slides.append(csr_matrix(counts))
    return slides, [f"G{i}" for i in range(40)]


def test_most_variable_genes(slides_of_counts):
    slides, genes = slides_of_counts
    chosen = most_variable(slides, genes, 4)
    assert sorted(chosen) == ["G0", "G1", "G2", "G3"]
    assert set(most_variable(slides, genes, 6)) > set(chosen)


def test_genes_that_a_slide_never_shows_are_left_out(slides_of_counts):
    slides, genes = slides_of_counts
    assert "G39" not in most_variable(slides, genes, 39)
    assert sorted(most_variable(slides, genes, 40)) == sorted(genes[:39])


@pytest.mark.parametrize(("spots", "depth"), [(30, 300), (10, 100), (30, 20)])
def test_genes_of_small_and_shallow_slides_are_ranked(spots, depth):
    """The local regression with the default of scanpy fails: many genes have the same mean."""
    rng = np.random.default_rng(0)
    level = np.exp(rng.normal(0, 1.5, 2000))
    counts = rng.poisson(level * depth / level.sum(), (spots, 2000))
    found = most_variable([csr_matrix(counts)], [f"G{number}" for number in range(2000)], 20)
    assert len(set(found)) == 20


def test_genes_that_cannot_be_ranked(monkeypatch):
    monkeypatch.setattr("deepspot._stats.normalize.SPANS", ())
    with pytest.raises(ValueError, match=r"too few spots or counts to rank 4 genes.*`genes=`"):
        most_variable([csr_matrix(np.arange(20).reshape(5, 4))], list("ABCD"), 2)


def test_few_genes_are_not_ranked():
    """The local regression would end the process."""
    with pytest.raises(ValueError, match=r"too few spots or counts to rank 3 genes.*`genes=`"):
        most_variable([csr_matrix(np.arange(15).reshape(5, 3))], list("ABC"), 2)
