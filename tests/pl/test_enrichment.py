import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import deepspot as ds
from deepspot.pl._enrichment import short_names
from deepspot.pl._style import BLUE, GRAY


@pytest.fixture
def enriched(slide):
    rows = [
        ("tumor", "HALLMARK_MYC_TARGETS_V1", 12, 52, 1e-6, 1e-4),
        ("tumor", "HALLMARK_E2F_TARGETS", 9, 38, 0.001, 0.02),
        ("tumor", "HALLMARK_HYPOXIA", 2, 30, 0.3, 0.6),
        ("fat", "HALLMARK_ADIPOGENESIS", 8, 20, 0.0, 0.0),
    ]
    found = pd.DataFrame(rows, columns=["group", "term", "n_overlap", "n_set", "p", "p_adj"])
    slide.tables["table"].uns["enrichment"] = found.assign(group=pd.Categorical(found["group"], ["tumor", "fat"]))
    slide.tables["table"].uns["deepspot_markers"] = {"groupby": "annotation"}
    return slide


def terms(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_one_panel_for_each_group(enriched):
    tumor, fat = ds.pl.enrichment(enriched)
    assert (tumor.get_title(loc="left"), fat.get_title(loc="left")) == ("annotation: tumor", "annotation: fat")
    assert terms(tumor) == ["MYC TARGETS V1", "E2F TARGETS", "HYPOXIA"]
    assert terms(fat) == ["ADIPOGENESIS"]


def test_bars_are_adjusted_p_and_blue_where_significant(enriched):
    ax = ds.pl.enrichment(enriched, groups="tumor")[0]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], -np.log10([1e-4, 0.02, 0.6]))
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [BLUE, BLUE, GRAY]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), -np.log10(0.05))
    assert [text.get_text() for text in ax.texts] == ["12 of 52", "9 of 38", "2 of 30"]
    assert ax.yaxis_inverted()  # the best on top


def test_a_p_of_zero_has_a_bar(enriched):
    ax = ds.pl.enrichment(enriched, groups=["fat"])[0]
    assert np.isfinite(ax.patches[0].get_width())
    ax.figure.canvas.draw()


def test_takes_the_top_terms(enriched):
    assert terms(ds.pl.enrichment(enriched, groups="tumor", n_top=1)[0]) == ["MYC TARGETS V1"]


def test_draws_into_given_axes(enriched):
    _, axes = plt.subplots(1, 2)
    assert ds.pl.enrichment(enriched, ax=axes) == list(axes)
    with pytest.raises(ValueError, match="`ax` and the groups"):
        ds.pl.enrichment(enriched, ax=axes[0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["HALLMARK_HYPOXIA", "HALLMARK_P53_PATHWAY"], ["HYPOXIA", "P53 PATHWAY"]),
        (["KEGG_A", "REACTOME_B"], ["KEGG A", "REACTOME B"]),
        (["HALLMARK_HYPOXIA"], ["HALLMARK HYPOXIA"]),
        (["phosphorylation (GO:0006119)", "WNT Signaling WP428"], ["phosphorylation", "WNT Signaling"]),
        (["Cell Cycle R-HSA-1640170", "Focal adhesion Homo sapiens hsa04510"], ["Cell Cycle", "Focal adhesion"]),
        (["WP2813", "B"], ["WP2813", "B"]),
        ([], []),
    ],
)
def test_names_are_short(given, expected):
    assert short_names(given) == expected


def test_long_names_are_wrapped(enriched):
    found = enriched.tables["table"].uns["enrichment"]
    found["term"] = [f"a set of genes with a name that goes on and on and never comes to its end {i}" for i in range(4)]
    lines = terms(ds.pl.enrichment(enriched, groups="fat")[0])[0].split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 34


def test_draws_results_read_from_disk(enriched, tmp_path):
    from spatialdata import read_zarr

    enriched.write(tmp_path / "slide.zarr")
    assert terms(ds.pl.enrichment(read_zarr(tmp_path / "slide.zarr"))[1]) == ["ADIPOGENESIS"]


def test_invalid_input_raises(enriched):
    with pytest.raises(KeyError, match="'fat'"):
        ds.pl.enrichment(enriched, groups="stroma")
    with pytest.raises(ValueError, match="at least 1"):
        ds.pl.enrichment(enriched, n_top=0)
    enriched.tables["table"].uns["enrichment"] = enriched.tables["table"].uns["enrichment"][:0]
    with pytest.raises(ValueError, match="holds no gene set"):
        ds.pl.enrichment(enriched)
    del enriched.tables["table"].uns["enrichment"]
    with pytest.raises(KeyError, match=r"ds\.tl\.enrich"):
        ds.pl.enrichment(enriched)
