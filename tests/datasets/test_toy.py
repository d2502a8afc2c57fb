import numpy as np
import pytest

import deepspot as ds
from deepspot.datasets._toy import toy_slide

OPTIONS = {
    "n_rows": 8,
    "n_cols": 10,
    "n_genes": 60,
    "mpp": 2.0,
    "depth": 3000.0,
    "stain_shift": 0.5,
    "batch_effect": 0.2,
    "seed": 0,
}


def make(patient=1, slide=1, **changes):
    return toy_slide(patient, slide, **(OPTIONS | changes))[:2]


@pytest.fixture(scope="module")
def slide():
    return make()


def expression(adata):
    counts = adata.X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def tile(adata, image, spot, mpp):
    x, y = adata.obsm["spatial"][spot]
    half = 27.5 / mpp
    return image[int(y - half) : int(y + half), int(x - half) : int(x + half)].astype(float)


def test_same_seed_same_bytes(slide):
    adata, image = make()
    np.testing.assert_array_equal(image, slide[1])
    np.testing.assert_array_equal(adata.X.toarray(), slide[0].X.toarray())
    other, other_image = make(seed=1)
    assert (image != other_image).any()
    assert (other.X != adata.X).nnz > 0


def test_tissue_and_counts_do_not_depend_on_the_scale_of_the_image(slide):
    fine, image = make(mpp=1.0)
    np.testing.assert_array_equal(fine.X.toarray(), slide[0].X.toarray())
    np.testing.assert_allclose(fine.obsm["spatial"], 2 * slide[0].obsm["spatial"])
    coarse = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, 3).mean(axis=(1, 3))
    # Textures differ, structures stay.
    blocks = [x[: x.shape[0] // 20 * 20, : x.shape[1] // 20 * 20, 0] for x in (coarse, slide[1].astype(float))]
    means = [b.reshape(b.shape[0] // 20, 20, -1, 20).mean(axis=(1, 3)).ravel() for b in blocks]
    assert np.corrcoef(*means)[0, 1] > 0.98


def test_table(slide):
    adata, _ = slide
    assert adata.shape == (80, 60)
    assert adata.obs_names.is_unique
    assert adata.obs_names[0] == "P1_S1_r0c0"
    assert adata.var_names.is_unique
    assert {"TUMOR1", "LYMPH1", "STROMA1", "NECRO1", "BORDER1", "NOISE1"} <= set(adata.var_names)
    assert (adata.var["program"] == "noise").sum() == 12
    assert list(adata.uns["composition"]) == ["tumor", "lymphoid", "stroma", "necrosis"]
    assert adata.obsm["composition"].dtype == np.float32
    np.testing.assert_allclose(adata.obsm["composition"].sum(axis=1), 1, rtol=1e-5)
    assert adata.layers["expected"].dtype == np.float32
    assert 2000 < np.median(np.asarray(adata.X.sum(axis=1))) < 4500


def test_array_is_numbered_as_visium(slide):
    adata, _ = slide
    row, col = adata.obs["array_row"], adata.obs["array_col"]
    assert ((row + col) % 2 == 0).all()
    xy = adata.obsm["spatial"] * OPTIONS["mpp"]
    distances = np.linalg.norm(xy[:, None] - xy, axis=-1)
    nearest = np.sort(distances, axis=1)[:, 1]
    np.testing.assert_allclose(nearest, 100, rtol=1e-6)


def test_image_has_glass_around_and_tissue_under_the_spots(slide):
    adata, image = slide
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    border = np.concatenate([image[:15].reshape(-1, 3), image[:, :15].reshape(-1, 3), image[-15:].reshape(-1, 3)])
    assert border.min() > 220
    green = [tile(adata, image, spot, 2.0)[..., 1].mean() for spot in range(adata.n_obs)]
    assert max(green) < border[:, 1].mean() - 20


def test_classes_look_different(slide):
    adata, image = slide
    composition = adata.obsm["composition"]
    red = np.array([tile(adata, image, spot, 2.0)[..., 0].mean() for spot in range(adata.n_obs)])
    pure = {name: red[composition[:, k] > 0.85].mean() for k, name in enumerate(adata.uns["composition"])}
    # Hematoxylin takes the red away: most where nuclei are dense.
    assert pure["lymphoid"] < pure["tumor"] < pure["stroma"]
    assert pure["necrosis"] > pure["tumor"]


def test_expression_follows_the_expected(slide):
    adata, _ = slide
    measured, expected = expression(adata), adata.layers["expected"]
    noise = (adata.var["program"] == "noise").to_numpy()
    r = [np.corrcoef(measured[:, g], expected[:, g])[0, 1] for g in np.flatnonzero(~noise)]
    assert min(r) > 0.6
    assert np.mean(r) > 0.85
    np.testing.assert_allclose(np.ptp(expected[:, noise], axis=0), 0, atol=1e-5)


def test_programs_follow_the_composition_and_noise_does_not():
    adatas = [make(patient=patient, mpp=4.0)[0] for patient in (1, 2, 3)]
    residual = [expression(a) - expression(a).mean(axis=0) for a in adatas]
    measured, composition = np.vstack(residual), np.vstack([a.obsm["composition"] for a in adatas])
    program = adatas[0].var["program"].to_numpy()
    r = np.corrcoef(measured.T, composition.T)[: len(program), len(program) :]
    for k, name in enumerate(adatas[0].uns["composition"]):
        assert r[program == name, k].min() > 0.6
    assert np.abs(r[program == "noise"]).max() < 0.25
    assert np.abs(r[program == "noise"]).mean() < 0.08


def test_border_program_needs_the_neighborhood():
    adata = make(n_rows=20, n_cols=20, mpp=8.0)[0]
    border = (adata.var["program"] == "border").to_numpy()
    y = expression(adata)[:, border].mean(axis=1)
    own = adata.obsm["composition"]
    xy = adata.obsm["spatial"] * 8
    near = (np.linalg.norm(xy[:, None] - xy, axis=-1) < 160).astype(float)
    around = near @ own / near.sum(axis=1, keepdims=True)

    def explained(*features):
        design = np.column_stack([np.ones(len(y)), *features])
        return 1 - np.var(y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) / np.var(y)

    assert explained(own, around, own[:, :1] * around) > explained(own) + 0.2


def test_patients_differ_in_color_and_batch():
    (first, one), (second, two) = (make(patient=patient) for patient in (1, 2))
    colors = [image[image.min(axis=2) < 200].mean(axis=0) for image in (one, two)]
    assert np.abs(colors[0] - colors[1]).max() > 5
    noise = (first.var["program"] == "noise").to_numpy()
    assert np.abs(first.layers["expected"][0, noise] - second.layers["expected"][0, noise]).max() > 0.1
    assert (first.var_names == second.var_names).all()

    (first, _), (second, _) = (make(patient=patient, batch_effect=0.0) for patient in (1, 2))
    np.testing.assert_allclose(first.layers["expected"][0, noise], second.layers["expected"][0, noise], rtol=1e-5)


def test_slides_of_a_patient_share_the_colors_of_glass():
    (_, one), (_, two) = make(slide=1), make(slide=2)
    assert (one[:200, :200] != two[:200, :200]).any()
    np.testing.assert_allclose(one[:15].mean(axis=(0, 1)), two[:15].mean(axis=(0, 1)), atol=0.5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_genes": 5}, ValueError, "`n_genes` must be 6 or more, got 5"),
        ({"n_rows": 2.5}, TypeError, "`n_rows` must be an integer, got float"),
        ({"mpp": 0.0}, ValueError, "`mpp` must be above 0"),
        ({"stain_shift": -1.0}, ValueError, "`stain_shift` must be 0 or above"),
    ],
)
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


@pytest.mark.parametrize("n_genes", [6, 7, 13, 200])
def test_any_number_of_genes(n_genes):
    adata, _ = make(n_genes=n_genes, n_rows=3, n_cols=3, mpp=8.0)
    assert adata.n_vars == n_genes
    assert adata.var["program"].nunique() == 6


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler", "ignore:zarr v3 autosharding")  # on writing
def test_toy_gives_spatialdata(tmp_path):
    import spatialdata

    import deepspot as ds

    slides = ds.datasets.toy(2, 2, n_rows=3, n_cols=4, n_genes=12, mpp=2.0)
    assert list(slides) == ["P1_S1", "P1_S2", "P2_S1", "P2_S2"]
    sdata = slides["P2_S1"]
    assert "P2_S1_image" in sdata.images
    assert len(sdata.shapes["spots"]) == sdata.tables["table"].n_obs == 12
    assert sdata.tables["table"].obs["patient"].unique().tolist() == ["P2"]
    sdata.write(tmp_path / "toy.zarr")
    again = spatialdata.read_zarr(tmp_path / "toy.zarr")
    assert list(again.tables["table"].uns["composition"]) == list(sdata.tables["table"].uns["composition"])


def test_toy_refuses_no_patient():
    import deepspot as ds

    with pytest.raises(ValueError, match="`n_patients` must be 1 or more, got 0"):
        ds.datasets.toy(0)


@pytest.fixture(scope="module")
def with_cells():
    return ds.datasets.toy(1, n_rows=8, n_cols=10, mpp=2.0, cells=True, seed=0)["P1_S1"]


def test_cells_change_nothing_else(slide, with_cells):
    np.testing.assert_array_equal(with_cells["table"].X.toarray(), slide[0].X.toarray())
    np.testing.assert_array_equal(with_cells.images["P1_S1_image"].to_numpy().transpose(1, 2, 0), slide[1])


def test_nuclei_are_where_their_outlines_are(with_cells):
    """The image is darker in red inside of the outlines than around them, in every class."""
    from shapely import contains_xy

    red = with_cells.images["P1_S1_image"].to_numpy()[0].astype(float)
    rng = np.random.default_rng(0)
    for name, cells in with_cells["cells"].groupby("class", observed=True):
        some = cells.geometry.iloc[rng.choice(len(cells), min(len(cells), 40), replace=False)]
        inside, outside = [], []
        for outline in some:
            x, y = outline.centroid.coords[0]
            rows, cols = np.mgrid[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
            at = contains_xy(outline, cols + 0.5, rows + 0.5)
            values = red[rows, cols]
            inside.append(values[at].mean() if at.any() else np.nan)
            outside.append(values[~at].mean())
        assert np.nanmean(inside) < np.mean(outside) - (5 if name == "necrosis" else 20)


def test_cells_have_the_genes_of_their_class(with_cells):
    table = with_cells["table_cells"]
    classes, program = table.obs["class"], table.var["program"]
    for name in ("tumor", "lymphoid", "stroma", "necrosis"):
        expected = table.layers["expected"][:, program == name].mean(axis=1)
        assert expected[classes == name].min() > expected[classes != name].max()
    assert list(table.obs["cell"]) == list(with_cells["cells"].index)


def test_cells_in_a_spot_have_its_counts(with_cells):
    """On average over spots, and by composition: few counts of many lymphoid cells."""
    from scipy.spatial import cKDTree

    table, spots = with_cells["table_cells"], with_cells["spots"]
    centers = np.column_stack([spots.geometry.x, spots.geometry.y]) * 2.0
    middle = with_cells["cells"].centroid
    near, spot = cKDTree(centers).query(np.column_stack([middle.x, middle.y]) * 2.0)
    pooled = np.zeros(with_cells["table"].shape)
    np.add.at(pooled, spot[near <= 27.5], table.X.toarray()[near <= 27.5])
    assert 0.8 < pooled.sum() / with_cells["table"].X.sum() < 1.25
    expected = with_cells["table"].layers["expected"]
    logged = np.log1p(1e4 * pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1))
    tumor = np.flatnonzero(table.var["program"] == "tumor")
    assert np.mean([np.corrcoef(logged[:, g], expected[:, g])[0, 1] for g in tumor]) > 0.6
