import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

import deepspot as ds
from deepspot.pl._markers import top_genes

CHANGE = {
    "fat": {"A": 2.0, "B": 1.0, "C": -1.0, "D": 0.5, "E": 0.1},
    "tumor": {"A": -1.0, "B": 3.0, "C": 0.8, "D": 0.2, "E": 0.0},
    "stroma": {"A": -0.5, "B": -0.5, "C": 0.1, "D": -0.5, "E": 0.0},
}
SIGNIFICANT = {("fat", "A"), ("fat", "B"), ("tumor", "B"), ("tumor", "C")}


def frame():
    rows = [
        {"group": group, "gene": gene, "logfoldchange": value, "significant": (group, gene) in SIGNIFICANT}
        for group, genes in CHANGE.items()
        for gene, value in genes.items()
    ]
    return pd.DataFrame(rows).assign(group=lambda f: pd.Categorical(f["group"], list(CHANGE)))


@pytest.fixture
def marked(slide):
    slide.tables["table"].uns["markers"] = frame()
    slide.tables["table"].uns["deepspot_markers"] = {"groupby": "annotation", "test": "blocks"}
    return slide


def rows(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def dots(ax):
    groups = [label.get_text() for label in ax.get_xticklabels()]
    return {(groups[int(x)], rows(ax)[int(y)]) for x, y in ax.collections[0].get_offsets()}


def test_rows_are_the_top_genes_each_once_where_it_leads_by_most(marked):
    ax = ds.pl.markers(marked, n_top=2)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CHANGE)
    assert rows(ax) == ["A", "B", "C"]  # B leads in fat too, but by less than in tumor
    expected = [[CHANGE[group][gene] for group in CHANGE] for gene in rows(ax)]
    np.testing.assert_allclose(ax.images[0].get_array(), expected)


def test_dots_are_significance_and_frames_are_membership(marked):
    ax = ds.pl.markers(marked, n_top=2)
    assert dots(ax) == SIGNIFICANT
    boxes = {
        (round(p.get_x() + 0.5), round(p.get_y() + 0.5), round(p.get_height()))
        for p in ax.patches
        if isinstance(p, Rectangle)
    }
    assert boxes == {(0, 0, 2), (1, 1, 2)}  # A and B are of fat, B and C of tumor
    assert "no significant marker: stroma" in ax.get_xlabel()
    assert "block test" in ax.get_xlabel()
    assert "annotation" in ax.get_title()


def test_white_is_no_change(marked):
    image = ds.pl.markers(marked).images[0]
    assert image.norm.vmin == -image.norm.vmax
    np.testing.assert_allclose(image.cmap(image.norm(0.0))[:3], 1, atol=0.05)


def test_groups_are_drawn_in_the_requested_order(marked):
    ax = ds.pl.markers(marked, groups=["tumor", "fat"], n_top=1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tumor", "fat"]
    assert rows(ax) == ["B", "A"]


def test_genes_that_were_not_tested_in_a_group_are_gray(marked):
    found = marked.tables["table"].uns["markers"]
    marked.tables["table"].uns["markers"] = found[~((found["group"] == "fat") & (found["gene"] == "C"))]
    ax = ds.pl.markers(marked, n_top=2)
    assert ax.images[0].get_array().mask[rows(ax).index("C"), 0]
    ax.figure.canvas.draw()


def test_draws_into_given_axes_and_does_not_change_the_object(marked):
    before = marked.tables["table"].uns["markers"].copy()
    _, ax = plt.subplots()
    assert ds.pl.markers(marked, ax=ax) is ax
    pd.testing.assert_frame_equal(marked.tables["table"].uns["markers"], before)


def test_draws_results_read_from_disk(marked, tmp_path):
    from spatialdata import read_zarr

    marked.write(tmp_path / "slide.zarr")
    again = ds.pl.markers(read_zarr(tmp_path / "slide.zarr"), n_top=2)
    assert rows(again) == ["A", "B", "C"]
    assert dots(again) == SIGNIFICANT


def test_top_genes_are_significant_and_higher():
    found = frame().assign(group=lambda f: f["group"].astype(str), significant=True)
    assert top_genes(found, ["tumor", "stroma"], 2) == {"tumor": ["B", "C"], "stroma": ["C"]}


def test_invalid_input_raises(slide, marked):
    with pytest.raises(KeyError, match="'stroma'"):
        ds.pl.markers(marked, groups=["stromal"])
    with pytest.raises(ValueError, match="`groups` is empty"):
        ds.pl.markers(marked, groups=[])
    with pytest.raises(ValueError, match="at least 1"):
        ds.pl.markers(marked, n_top=0)
    with pytest.raises(ValueError, match="No gene is significant and higher"):
        ds.pl.markers(marked, groups=["stroma"])
    with pytest.raises(KeyError, match=r"ds\.tl\.markers\(sdata, groupby\)"):
        ds.pl.markers(marked, markers_key="others")
    with pytest.raises(KeyError, match="'tabel'"):
        ds.pl.markers(marked, table_key="tabel")


def test_several_tables_have_to_be_chosen_from(marked, add_table):
    add_table(marked, np.ones((30, 1)), ["A"])
    marked.tables["deepspot_spots"].uns["markers"] = frame()
    with pytest.raises(ValueError, match="table_key"):
        ds.pl.markers(marked)
    assert rows(ds.pl.markers(marked, table_key="deepspot_spots", n_top=1)) == ["A", "B"]
