"""Predicted tables work with scanpy, squidpy and spatialdata-plot without conversion."""

import numpy as np
import pytest

# Warnings between these libraries: squidpy of pandas, spatialdata-plot of matplotlib, and
# anndata of zarr (scanpy's record arrays).
pytestmark = pytest.mark.filterwarnings("ignore:The set_bad function")


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
