"""What `predict` adds goes through the tools of the ecosystem with no glue."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from spatialdata import deepcopy

import deepspot as ds

# What these libraries warn each other about is theirs to mend: squidpy of pandas, spatialdata-plot of matplotlib, and
# anndata of zarr (scanpy's record arrays).
pytestmark = pytest.mark.filterwarnings(
    "ignore:The inplace keyword", "ignore:The set_bad function", "ignore:The data type"
)


@pytest.fixture(scope="module")
def predicted(toy, mean_colour):
    class Brightness(mean_colour):
        """In 0 to 1, where a short training already tells the spots apart."""

        def encode(self, tiles):
            return super().encode(tiles) / 255

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    genes = [gene for gene in slides["P1_S1"].tables["table"].var_names if gene.startswith(("TUMOR", "STROMA"))][:10]
    config = {"network": {"width": 64, "members": 1}, "training": {"epochs": 40, "lr": 3e-3}, "seed": 0}
    model = ds.tl.train(slides["P1_S1"], genes=genes, encoder=Brightness(), **config)
    ds.tl.predict(slides["P1_S1"], model, encoder=Brightness())
    return slides["P1_S1"]


def test_scanpy_squidpy_and_spatialdata_plot(predicted):
    import scanpy as sc
    import spatialdata_plot  # noqa: F401
    import squidpy as sq

    table = predicted.tables["deepspot_spots"]
    sc.pp.pca(table, n_comps=5)
    sc.pp.neighbors(table, n_neighbors=8)
    sc.tl.leiden(table, flavor="igraph", n_iterations=2, directed=False, resolution=0.5)
    assert table.obs["leiden"].nunique() > 1
    sc.tl.rank_genes_groups(table, "leiden", method="wilcoxon")
    markers = sc.get.rank_genes_groups_df(table, group=None)
    assert set(markers["names"]) == set(table.var_names)
    assert np.isfinite(markers["logfoldchanges"]).all()

    sq.gr.spatial_neighbors_knn(table)
    sq.gr.spatial_autocorr(table, mode="moran", show_progress_bar=False)
    assert set(table.uns["moranI"].index) == set(table.var_names)

    gene = table.var_names[0]
    image = next(iter(predicted.images))
    render = predicted.pl.render_images(image).pl.render_shapes("spots", color=gene, table_name="deepspot_spots")
    axes = render.pl.show(coordinate_systems="global", return_ax=True)
    assert len(axes.collections) > 0
    plt.close("all")


def test_it_is_still_a_spatialdata_that_can_be_written(predicted, tmp_path):
    from spatialdata import read_zarr

    predicted.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr").tables["deepspot_spots"]
    np.testing.assert_array_equal(again.X, predicted.tables["deepspot_spots"].X)
