import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from deepspot.models._training.slides import MeasuredSlide
from deepspot.models._training.targets import choose_genes, common_genes, targets


def slide(name, genes, counts):
    counts = csr_matrix(np.asarray(counts, dtype=np.float32))
    return MeasuredSlide(
        name=name,
        patient=name,
        table_key="table",
        layer=None,
        counts=counts,
        genes=pd.Index(list(genes)),
        rows=np.arange(counts.shape[0]),
        table_rows=np.arange(counts.shape[0]),
    )


def test_genes_are_matched_by_name_not_by_order():
    one, two = slide("s1", "ABC", [[1, 2, 7]]), slide("s2", "CBA", [[7, 2, 1]])
    (first, second), depth = targets([one, two], ["B", "A"])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, np.log1p([[2000, 1000]]), rtol=1e-6)
    assert depth == "all measured genes"


def test_mixed_panels_share_their_depth_over_the_common_genes():
    one, two = slide("s1", "ABCX", [[1, 2, 7, 90]]), slide("s2", "ABC", [[1, 2, 7]])
    (first, second), depth = targets([one, two], ["A", "X"])
    assert depth == "the 3 genes that all training slides share"
    assert first[0, 0] == second[0, 0] == pytest.approx(np.log1p(1000))
    assert first[0, 1] == pytest.approx(np.log1p(90_000))
    assert np.isnan(second[0, 1])


def test_a_spot_without_common_genes_has_no_target():
    one, two = slide("s1", "ABX", [[0, 0, 5], [1, 1, 0]]), slide("s2", "AB", [[1, 1]])
    (first, _), _ = targets([one, two], ["A"])
    assert np.isnan(first[0, 0])
    assert first[1, 0] > 0


def test_slides_that_share_under_half_of_their_genes_are_refused():
    with pytest.raises(ValueError, match="share 1 genes, under half of 4 of slide 'mouse'"):
        common_genes([slide("human", "ABCDE", [[1] * 5]), slide("mouse", "abcE", [[1] * 4])])


def test_missing_and_misspelled_genes_are_errors_with_examples():
    one = slide("s1", "ABC", [[1, 2, 7]])
    with pytest.raises(KeyError, match=r"1 of 2 genes .* \['ENSG1'\].*\['A', 'B', 'C'\]"):
        choose_genes([one], ["A", "ENSG1"])
    with pytest.raises(TypeError, match=r"Write \['A'\]"):
        choose_genes([one], "A")
    with pytest.raises(ValueError, match="at least 1"):
        choose_genes([one], 0)


@pytest.mark.parametrize("name", ["B\n", "", "B" * 3000])
def test_names_of_genes_that_bundles_refuse(name):
    with pytest.raises(ValueError, match="empty, too long, or have line breaks"):
        choose_genes([slide("s1", ["A", name], [[1, 2]])], ["A", name])


def test_most_variable_genes_are_scanpys():
    import scanpy as sc
    from anndata import AnnData

    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 3, size=(1, 80)) * rng.gamma(rng.uniform(0.5, 20, 80), 1, (60, 80)) / 5)
    names = [f"G{i}" for i in range(80)]
    parts = [slide("s1", names, counts[:30]), slide("s2", names, counts[30:])]
    adata = AnnData(csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=names))
    adata.obs["slide"] = ["0"] * 30 + ["1"] * 30
    seen = np.minimum((counts[:30] > 0).sum(0), (counts[30:] > 0).sum(0)) >= 3
    adata = adata[:, seen].copy()
    sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=20, batch_key="slide")
    assert set(choose_genes(parts, 20)) == set(adata.var_names[adata.var["highly_variable"]])


def test_a_number_above_that_of_the_panel_takes_all_genes():
    counts = np.random.default_rng(0).poisson(5, size=(40, 30))
    counts[2:, 7] = 0
    names = [f"G{i}" for i in range(30)]
    assert set(choose_genes([slide("s1", names, counts)], 5000)) == {*names} - {"G7"}


def test_rarely_detected_genes_can_be_left_out():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5, size=(40, 30))
    counts[:, :10] = rng.poisson(40, size=(40, 10)) * (rng.random((40, 10)) < 0.2)
    names = [f"G{i}" for i in range(30)]
    slides = [slide("s1", names, counts)]
    assert not set(choose_genes(slides, 10)).isdisjoint(names[:10])
    assert set(choose_genes(slides, 10, min_detected=0.5)).isdisjoint(names[:10])
