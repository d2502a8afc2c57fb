"""A real sample of Xenium cells from end to end. 200 cells of one core: this shows that it runs, and no accuracy."""

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds

# The file has no scale: 3 mm, the diameter of a core, are 1431 px of the image.
MPP = 2.1
TILE_UM = 55


@pytest.fixture
def core(data):
    """`x_pixel` is the row of the image, and `y_pixel` the column."""
    folder = data / "xenium_core"
    adata = ad.read_h5ad(folder / "NCBI858.h5ad")
    adata.X = csr_matrix(adata.X)
    adata.obsm["spatial"] = adata.obs[["y_pixel", "x_pixel"]].to_numpy()
    return ds.io.from_anndata(adata, folder / "NCBI858.jpg", mpp=MPP, diameter_um=TILE_UM, name="NCBI858")


def test_cells_are_on_tissue(core):
    """Cells at swapped coordinates would be on the glass between the alveoli, or outside of the image."""
    image = core["NCBI858_image"].transpose("y", "x", "c").to_numpy()
    column, row = np.round(np.column_stack([core["spots"].geometry.x, core["spots"].geometry.y])).astype(int).T

    def share_on_tissue(row, column):
        around = [image[r - 4 : r + 5, c - 4 : c + 5].mean() < 215 for r, c in zip(row, column, strict=True)]
        return np.mean(around)

    swapped = (column < image.shape[0]) & (row < image.shape[1])
    assert share_on_tissue(row, column) > share_on_tissue(column[swapped], row[swapped]) + 0.2


def test_swapped_coordinates_are_refused(data):
    folder = data / "xenium_core"
    adata = ad.read_h5ad(folder / "NCBI858.h5ad")
    adata.obsm["spatial"] = adata.obs[["x_pixel", "y_pixel"]].to_numpy()
    with pytest.raises(ValueError, match="With x and y swapped all are inside"):
        ds.io.from_anndata(adata, folder / "NCBI858.jpg", mpp=MPP, diameter_um=TILE_UM)


def test_train_on_cells_predict_write_and_read_again(core, mean_color, tmp_path):
    from spatialdata import read_zarr

    encoder = mean_color()
    ds.pp.embed(core, encoder, tile_um=TILE_UM)
    assert encoder.n_tiles == 200 * 10
    model = ds.models.train(
        core,
        genes=20,
        encoder=encoder,
        tiles={"tile_um": TILE_UM},
        keys={"normalize": "log1p_counts"},
        network={"width": 16, "members": 1},
        training={"epochs": 3, "max_epochs": 3},
        seed=0,
    )
    ds.tl.predict(core, model, encoder=encoder)
    assert encoder.n_tiles == 200 * 10  # embedded once
    table = core["deepspot_spots"]
    assert table.shape == (200, 20)
    assert table.uns["deepspot"]["scale"] == "log1p of raw counts"
    core.write(tmp_path / "core.zarr")
    again = read_zarr(tmp_path / "core.zarr")
    np.testing.assert_array_equal(again["deepspot_spots"].X, table.X)
    assert again["deepspot_spots"].obs_names.tolist() == core["spots"].index.astype(str).tolist()
    assert set(again["spots"]["diameter_um"]) == {TILE_UM}


def test_a_model_of_cells_learns_from_the_core_and_predicts_it(core, mean_color, tmp_path):
    options = {"tiles": {"tile_um": TILE_UM, "subspots": "tiles"}, "genes": 20, "encoder": mean_color()}
    small = {"network": {"width": 16, "n_ensemble": 2}, "training": {"epochs": 3}}
    model = ds.models.train(core, preset="deepcell", keys={"normalize": "log1p_counts"}, **options, **small)
    model.save(tmp_path / "model")
    ds.tl.predict(core, ds.models.load(tmp_path / "model"), encoder=mean_color())
    table = core["deepspot_spots"]
    assert table.shape == (200, 20)
    assert np.isfinite(table.X).all()
    assert table.obs["ood"].mean() < 0.25
