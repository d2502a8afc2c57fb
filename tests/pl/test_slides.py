import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import deepspot as ds


@pytest.fixture
def levels(slides, add_table):
    """The second slide is higher."""
    for number, sdata in enumerate(slides.values()):
        values = np.column_stack([np.linspace(number, number + 2, 30), np.full(30, 1.0)])
        add_table(sdata, values, ["UP", "FLAT"])
    return slides


def circles(ax):
    return ax.collections[0]


def test_slides_are_ordered_by_mean_and_share_scales(levels):
    axes = ds.pl.slides(levels, "UP")
    assert [ax.get_title() for ax in axes] == ["P2_S1\n30 spots, mean 2.00", "P1_S1\n30 spots, mean 1.00"]
    assert circles(axes[0]).get_clim() == circles(axes[1]).get_clim()
    np.testing.assert_allclose(np.sort(circles(axes[0]).get_array()), np.linspace(1, 3, 30), rtol=1e-6)
    widths = [np.ptp(ax.get_xlim()) for ax in axes]
    assert widths[0] == pytest.approx(widths[1])  # one length scale
    low, high = axes[0].get_ylim()
    assert low > high  # y points down, as in the image
    title = axes[0].figure.get_suptitle()
    assert title.startswith("UP predicted, 2 slides, by decreasing mean\none color scale for all slides")


def test_own_scales_are_stated(levels):
    axes = ds.pl.slides(levels, "UP", shared_scale=False)
    assert circles(axes[0]).get_clim() != circles(axes[1]).get_clim()
    assert "colors cannot be compared between slides" in axes[0].figure.get_suptitle()
    assert circles(ds.pl.slides(levels, "FLAT", shared_scale=False)[0]).get_array() is None


def test_more_slides_than_shown(levels):
    many = {f"S{number}": levels[f"P{number % 2 + 1}_S1"] for number in range(9)}
    axes = ds.pl.slides(many, "UP", n=3)
    assert len(axes) == 3
    assert [ax.get_title().split(" ")[-1] for ax in axes] == ["2.00", "1.00", "1.00"]
    assert "3 of 9 slides at equal steps of rank" in axes[0].figure.get_suptitle()


def test_out_of_distribution_spots_and_training_slides_are_named(levels):
    table = levels["P1_S1"]["deepspot_spots"]
    table.obs["ood"] = np.arange(30) < 6
    table.uns["deepspot"]["training_slide"] = "yes"
    assert ds.pl.slides(levels, "UP")[1].get_title() == "P1_S1 (training slide)\n30 spots, 20% OOD, mean 1.00"


def test_the_folder_of_a_cohort(levels, tmp_path, monkeypatch):
    opened = []

    def predicted(path, *, genes):
        opened.append((path, genes))
        return levels[path.stem]

    monkeypatch.setattr("deepspot.pl._slides.predicted", predicted)
    runs = pd.DataFrame({"slide": ["P1_S1", "P2_S1", "bad"], "status": ["done", "done", "failed"]})
    runs.to_csv(tmp_path / "runs.csv", index=False)
    assert len(ds.pl.slides(tmp_path, "UP")) == 2
    assert opened == [(tmp_path / "slides" / f"{name}.zarr", ["UP"]) for name in ("P1_S1", "P2_S1")]
    runs.assign(status="failed").to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(ValueError, match=r"No slide in .* is finished"):
        ds.pl.slides(str(tmp_path), "UP")
    with pytest.raises(FileNotFoundError, match=r"no run table 'runs\.csv'"):
        ds.pl.slides(tmp_path / "other", "UP")


@pytest.mark.parametrize("profiled", [["P2_S1", "P1_S1"], ["P1_S1"], None])
def test_only_slides_to_draw_are_opened_if_there_are_profiles(levels, tmp_path, monkeypatch, profiled):
    """Profiles of an interrupted run lack slides, and there may be none: then all are opened."""
    opened = []

    def predicted(path, *, genes):
        opened.append(path.stem)
        return levels[path.stem]

    monkeypatch.setattr("deepspot.pl._slides.predicted", predicted)
    pd.DataFrame({"slide": ["P1_S1", "P2_S1"], "status": "done"}).to_csv(tmp_path / "runs.csv", index=False)
    if profiled:
        means = np.float32([[0, levels[name]["deepspot_spots"][:, "UP"].X.mean()] for name in profiled])
        obs, var = (pd.DataFrame(index=names) for names in (profiled, ["OTHER", "UP"]))
        AnnData(means, obs=obs, var=var).write_h5ad(tmp_path / "pseudobulk.h5ad")
    (ax,) = ds.pl.slides(tmp_path, "UP", n=1)
    assert ax.get_title().startswith("P2_S1\n")  # the higher one
    assert "1 of 2 slides at equal steps of rank" in ax.figure.get_suptitle()
    assert opened == (["P2_S1"] if profiled and len(profiled) == 2 else ["P1_S1", "P2_S1"])


def test_bad_input(levels):
    with pytest.raises(KeyError, match="'GONE'"):
        ds.pl.slides(levels, "GONE")
    with pytest.raises(ValueError, match="`n`"):
        ds.pl.slides(levels, "UP", n=0)
    with pytest.raises(ValueError, match="`ax`"):
        ds.pl.slides(levels, "UP", ax=plt.subplots(1, 3)[1])
    levels["P1_S1"]["deepspot_spots"].X[:] = np.nan
    with pytest.raises(ValueError, match="No spot of slide 'P1_S1' has a value of 'UP'"):
        ds.pl.slides(levels, "UP")
