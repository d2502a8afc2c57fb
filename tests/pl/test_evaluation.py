import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepspot as ds
from deepspot._stats.normalize import normalize


@pytest.fixture
def evaluated(slide, add_table):
    """A prediction with noise, and one of gene means alone."""
    measured = slide["table"]
    truth = normalize(measured.X.tocsr()).toarray()
    rng = np.random.default_rng(0)
    centers = np.asarray(measured.obsm["spatial"])
    for key, values in {
        "noisy": truth / 2 + 0.3 * rng.normal(size=truth.shape),
        "means": np.tile(truth.mean(axis=0), (len(truth), 1)),
    }.items():
        add_table(slide, values, measured.var_names, key, obsm={"spatial": centers})
    return slide


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_panels_show_the_numbers_of_the_table(evaluated):
    sets = {"first": list(evaluated["table"].var_names[:9]), "second": list(evaluated["table"].var_names[9:30])}
    ds.tl.evaluate(evaluated, prediction_key="noisy", gene_sets=sets)
    axes = ds.pl.evaluation(evaluated)
    means = evaluated["noisy"].uns["deepspot"]["agreement"]
    genes, parts, moran, slopes, of_sets = axes
    labels = [label.get_text() for label in genes.get_yticklabels()]
    assert "SSIM of\nthe mean" in labels
    medians = [lines.get_segments()[0][0, 0] for lines in genes.collections[1::2]]
    for label, column in {"Pearson r": "pearson", "SSIM": "ssim", "ceiling of r": "pearson_ceiling"}.items():
        assert evaluated["noisy"].var[column].median() == pytest.approx(medians[labels.index(label)])
    widths = [bar.get_width() for bar in parts.patches]
    assert widths == pytest.approx([means["r_all_means"], means["r_all_pattern"], means["r_all_of_means"]])
    assert texts(parts)[0] == f"{means['r_all']:.2f}\n(pattern {means['r_all_pattern']:.2f})"
    assert len(moran.collections[0].get_offsets()) == evaluated["noisy"].n_vars
    assert texts(slopes) == [f"all genes: {means['slope']:.2f}"]
    assert {label.get_text().split(" ")[0] for label in of_sets.get_yticklabels()} == {"first", "second"}
    assert "domains" not in axes[0].figure.get_suptitle()


def test_a_prediction_of_gene_means_is_exposed(evaluated):
    ds.tl.evaluate(evaluated, prediction_key="means")
    axes = ds.pl.evaluation(evaluated)
    assert len(axes) == 4
    assert "(pattern 0.00)" in texts(axes[1])[0]
    assert texts(axes[0])[:2] == ["unknown", "unknown"]  # r and Spearman's r


def test_which_prediction_and_axes(evaluated):
    with pytest.raises(KeyError, match=r"No prediction was evaluated. Call `ds.tl.evaluate\(sdata\)`"):
        ds.pl.evaluation(evaluated)
    for key in ("noisy", "means"):
        ds.tl.evaluate(evaluated, prediction_key=key)
    with pytest.raises(ValueError, match="several candidates"):
        ds.pl.evaluation(evaluated)
    given = plt.subplots(1, 4)[1]
    assert ds.pl.evaluation(evaluated, prediction_key="noisy", ax=given) == list(given)
    with pytest.raises(ValueError, match="`ax`"):
        ds.pl.evaluation(evaluated, prediction_key="noisy", ax=given[:3])


def test_domains_are_in_the_title(evaluated):
    pytest.importorskip("igraph")
    ds.tl.evaluate(evaluated, prediction_key="noisy", domains=True)
    title = ds.pl.evaluation(evaluated)[0].figure.get_suptitle()
    assert f"adjusted Rand index {evaluated['noisy'].uns['deepspot']['agreement']['ari']:.2f} (shifted maps" in title
