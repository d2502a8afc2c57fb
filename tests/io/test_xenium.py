import json

import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from scipy.sparse import csc_matrix
from shapely import box

import deepspot as ds
from deepspot._sdata.view import select_image_and_shapes
from deepspot._spatial.transforms import centers_px, centers_um, microns_per_pixel

PIXEL = 0.2125  # µm per pixel of Xenium
SCALE = 1.3  # pixels of Xenium per pixel of the H&E image
N = 30
XY = np.column_stack([np.arange(N) % 6, np.arange(N) // 6]) * 20.0 + [60, 40]  # centers of cells in µm
FEATURES = {
    "Gene Expression": ["KRT5", "ACTA2", "ERBB2"],
    "Negative Control Probe": ["NegControlProbe_00042", "NegControlProbe_00041"],
    "Negative Control Codeword": ["NegControlCodeword_0500"],
    "Unassigned Codeword": ["UnassignedCodeword_0001"],
}
NAMES = np.array([f"aaaaa{'abcdefghijklmnop'[i // 16]}{'abcdefghijklmnop'[i % 16]}a-1" for i in range(N)])
IDS = np.array([[16 * i, 1] for i in range(N)], dtype=np.uint32)  # the same, as numbers


def turned(degrees=93.0, mirror=False):
    """Alignment as Xenium Explorer writes it: from pixels of the H&E image to pixels of Xenium."""
    a = np.radians(degrees)
    matrix = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]]) * [[SCALE], [SCALE], [1]]
    if mirror:
        matrix = matrix @ np.diag([-1.0, 1, 1])
    center = np.append(matrix[:2, :2] @ [300, 300], 0)  # of the image, which shows the center of the cells
    matrix[:2, 2] = (XY.mean(axis=0) / PIXEL) - center[:2]
    return matrix


def in_he(matrix, um=XY):
    """Pixels of the H&E image (n, 2) of positions in µm."""
    return (np.column_stack([um / PIXEL, np.ones(len(um))]) @ np.linalg.inv(matrix).T)[:, :2]


def color(i):
    return np.array([8 * i, 255 - 8 * i, 60], np.uint8)


def write_image(path, matrix, **options):
    image = np.full((600, 600, 3), 240, np.uint8)
    for i, (x, y) in enumerate(np.round(in_he(matrix)).astype(int)):
        image[y - 20 : y + 20, x - 20 : x + 20] = color(i)
    tifffile.imwrite(path, image, **{"photometric": "rgb", "ome": True} | options)


def write_matrix(path, matrix):
    pd.DataFrame(matrix).to_csv(path, header=False, index=False)


def write_counts(path):
    names = [name for group in FEATURES.values() for name in group]
    counts = np.full((len(names), N), 3, dtype=np.int32)
    counts[0] = np.arange(N) + 1
    counts = csc_matrix(counts)
    text = h5py.string_dtype("ascii", 32)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(NAMES, dtype=text)
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.shape, dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(len(names))], dtype=text)
        features["name"] = np.array(names, dtype=text)
        kinds = [kind for kind, group in FEATURES.items() for _ in group]
        features["feature_type"] = np.array(kinds, dtype=text)
        features["genome"] = np.array(["Unknown"] * len(names), dtype=text)
        features["_all_tag_keys"] = np.array(["genome"], dtype=text)


def write_boundaries(path, half, cells):
    """Squares around the centers of cells, with five vertices each."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * half
    vertices = (XY[cells][:, None] + corners).reshape(-1, 2)
    table = pd.DataFrame({"cell_id": np.repeat(NAMES[cells], 5)})
    table["vertex_x"], table["vertex_y"] = vertices.astype(np.float32).T
    table["label_id"] = np.repeat(np.arange(1, len(cells) + 1, dtype=np.uint32), 5)
    table.to_parquet(path, index=False)


def write_zarr(path, nuclei):
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.create_group(store, zarr_format=2)
        group["cell_id"] = IDS
        columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "z_level", "nucleus_count"]
        summary = np.column_stack([XY, np.full(N, 100.0), np.zeros(N), np.ones(N)])
        group.create_array("cell_summary", data=summary, attributes={"column_names": columns})
        for mask, cells in enumerate((nuclei, np.arange(N))):
            group[f"masks/{mask}"] = np.zeros((40, 40), np.uint32)
            group[f"polygon_sets/{mask}/cell_index"] = cells.astype(np.uint32)


NUCLEI = np.array([0, 1, 1, 5, 29])  # a cell with two nuclei, and many without one


@pytest.fixture
def outs(tmp_path):
    """A folder as Xenium Onboard Analysis 3 writes it, with an H&E image turned by 93°."""
    folder = tmp_path / "my sample" / "outs"
    folder.mkdir(parents=True)
    specs = {"pixel_size": PIXEL, "analysis_sw_version": "xenium-3.1.0.0", "panel_name": "lung"}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    table = pd.DataFrame({"cell_id": NAMES, "x_centroid": XY[:, 0], "y_centroid": XY[:, 1]})
    table["transcript_counts"], table["cell_area"], table["nucleus_area"] = 10, 100.0, 25.0
    table.to_parquet(folder / "cells.parquet", index=False)
    write_counts(folder / "cell_feature_matrix.h5")
    write_boundaries(folder / "cell_boundaries.parquet", 5, np.arange(N))
    write_boundaries(folder / "nucleus_boundaries.parquet", 2, NUCLEI)
    write_zarr(folder / "cells.zarr.zip", NUCLEI)
    write_image(folder / "lung_he_image.ome.tif", turned())
    write_matrix(folder / "lung_he_imagealignment.csv", turned())
    focus = np.full((1, 550, 800), 300, np.uint16)
    (folder / "morphology_focus").mkdir()
    tifffile.imwrite(folder / "morphology_focus" / "morphology_focus_0000.ome.tif", focus, ome=True)
    return folder


@pytest.fixture
def aligned(outs):
    return ds.io.xenium(outs, image="lung_he_image.ome.tif")


def test_elements(aligned):
    assert {name for _, name, _ in aligned.gen_elements()} == {"cell_boundaries", "he_image", "table"}
    assert set(aligned.coordinate_systems) == {"global", "he_pixels", "microns"}
    assert list(aligned["he_image"]) == [f"scale{i}" for i in range(5)]
    assert "diameter_um" not in aligned["cell_boundaries"]


def test_cells_are_at_their_place_in_um_and_in_both_pixels(aligned):
    np.testing.assert_allclose(centers_um(aligned, "cell_boundaries"), XY, atol=1e-4)
    np.testing.assert_allclose(centers_px(aligned, "he_image", "cell_boundaries"), in_he(turned()), atol=1e-3)
    assert microns_per_pixel(aligned, "he_image") == pytest.approx(SCALE * PIXEL)
    extent = aligned["cell_boundaries"].geometry.area
    np.testing.assert_allclose(extent, 100.0, rtol=1e-4)


@pytest.mark.parametrize(("degrees", "mirror"), [(0, False), (-140, False), (93, True)])
def test_the_alignment_is_honored(outs, degrees, mirror, cheap_encoder):
    matrix = turned(degrees, mirror)
    write_image(outs / "lung_he_image.ome.tif", matrix)
    write_matrix(outs / "lung_he_imagealignment.csv", matrix)
    sdata = ds.io.xenium(outs, image="lung_he_image.ome.tif")
    np.testing.assert_allclose(centers_px(sdata, "he_image", "cell_boundaries"), in_he(matrix), atol=1e-3)
    ds.pp.embed(sdata, cheap_encoder, tile_um=8)
    table = sdata["mean_color_cell_boundaries"]
    np.testing.assert_allclose(table.X * 32, [np.tile(color(i), 9) for i in range(N)])


def test_counts_of_genes_only(aligned, log):
    table = aligned["table"]
    assert table.var_names.tolist() == ["KRT5", "ACTA2", "ERBB2"]
    np.testing.assert_array_equal(table.X[:, 0].toarray().ravel(), np.arange(N) + 1)
    assert table.obs["cell_id"].tolist() == aligned["cell_boundaries"].index.tolist() == NAMES.tolist()
    assert table.uns["spatialdata_attrs"] == {
        "region": "cell_boundaries",
        "region_key": "region",
        "instance_key": "cell_id",
    }


def test_what_is_left_out_and_the_panel_are_logged(outs, log):
    ds.io.xenium(outs, image="lung_he_image.ome.tif")
    left_out = "2 'Negative Control Probe', 1 'Negative Control Codeword', 1 'Unassigned Codeword'."
    assert f"Features that are not genes are left out: {left_out}" in log
    assert "Read outs: 30 cells × 3 genes." in log
    (panel,) = [line for line in log if line.startswith("The genes are a panel.")]
    assert "relative to the 3 genes of this panel, and cannot be compared with another panel" in panel
    assert "`normalize=` of `ds.models.SlideKeys`" in panel


def test_without_an_image(outs, log):
    sdata = ds.io.xenium(outs)
    assert not sdata.images
    assert any("No H&E image was given" in line for line in log)
    np.testing.assert_allclose(centers_um(sdata, "cell_boundaries"), XY, atol=1e-4)


def test_fluorescence_is_never_taken_for_the_image(outs, cheap_encoder):
    sdata = ds.io.xenium(outs, morphology_focus=True)
    with pytest.raises(ValueError, match="must be RGB in uint8, got 1 channels of uint16"):
        ds.pp.embed(sdata, cheap_encoder, tile_um=10)
    both = ds.io.xenium(outs, image="lung_he_image.ome.tif", morphology_focus=True)
    assert set(both.images) == {"he_image", "morphology_focus"}
    assert select_image_and_shapes(both, None, None, 10) == ("he_image", "cell_boundaries")
    assert select_image_and_shapes(both, None, None, None) == ("he_image", "cell_boundaries")
    with pytest.raises(ds.errors.InputError, match="is a fluorescence image of Xenium"):
        ds.io.xenium(outs, image="morphology_focus/morphology_focus_0000.ome.tif")


def test_nuclei_belong_to_cells_and_are_not_spots(outs):
    sdata = ds.io.xenium(outs, image="lung_he_image.ome.tif", nucleus_boundaries=True)
    assert sdata["nucleus_boundaries"]["parent"].tolist() == NAMES[NUCLEI].tolist()
    np.testing.assert_allclose(centers_um(sdata, "nucleus_boundaries"), XY[NUCLEI], atol=1e-4)
    assert select_image_and_shapes(sdata, None, None, 10) == ("he_image", "cell_boundaries")


def test_regions_are_in_pixels_of_the_image(aligned):
    half = box(0, 0, in_he(turned())[:, 0].mean(), 600)
    ds.pp.annotate(aligned, gpd.GeoDataFrame({"name": ["left"]}, geometry=[half]))
    left = in_he(turned())[:, 0] <= in_he(turned())[:, 0].mean()
    assert (aligned["cell_boundaries"]["annotation"] == "left").tolist() == left.tolist()


@pytest.mark.parametrize("name", ["lung_he_image_matrix.csv", "lung_he_image_alignment_files/matrix.csv"])
def test_names_of_the_alignment(outs, name):
    (outs / "lung_he_image_alignment_files").mkdir()
    (outs / "lung_he_imagealignment.csv").rename(outs / name)
    assert "he_image" in ds.io.xenium(outs, image="lung_he_image.ome.tif").images


def test_alignment_elsewhere(outs, tmp_path):
    path = (outs / "lung_he_imagealignment.csv").rename(tmp_path / "he.csv")
    with pytest.raises(
        FileNotFoundError, match=r"alignment of lung_he_image\.ome\.tif is missing: .*`alignment_file=`"
    ):
        ds.io.xenium(outs, image="lung_he_image.ome.tif")
    for alignment in (path, "../../he.csv"):
        assert "he_image" in ds.io.xenium(outs, image="lung_he_image.ome.tif", alignment_file=alignment).images
    with pytest.raises(FileNotFoundError, match=r"There is no alignment no\.csv"):
        ds.io.xenium(outs, image="lung_he_image.ome.tif", alignment_file="no.csv")
    with pytest.raises(ValueError, match="`alignment_file` belongs to an image"):
        ds.io.xenium(outs, alignment_file=path)


def test_several_alignments(outs):
    write_matrix(outs / "lung_he_image_matrix.csv", np.eye(3))
    with pytest.raises(ValueError, match=r"has several alignments: \[.*Choose one with `alignment_file=`"):
        ds.io.xenium(outs, image="lung_he_image.ome.tif")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.diag([1.3, 1.5, 1]), r"shears or stretches the image: its scales are 1\.5 and 1\.3"),
        (np.array([[1.3, 0.4, 0], [0, 1.3, 0], [0, 0, 1]]), "shears or stretches"),
        (np.diag([1000.0, 1000, 1]), r"gives 212\.5 µm per pixel; .*0\.05 to 10"),
        (np.eye(2), "must be a matrix of 3 × 3 numbers"),
        (np.array([[1.3, 0, 0], [0, 1.3, 0], [0.1, 0, 1]]), "whose last row is 0, 0, 1"),
        (np.array([["fixedX", "fixedY", "a"], ["1", "2", "3"], ["1", "2", "3"]]), "not the keypoints"),
        (np.zeros((3, 3)), "must be a matrix"),
        (np.diag([0.0, 0.0, 1.0]), "must be a"),
    ],
)
def test_alignments_that_are_no_similarity(outs, content, message):
    write_matrix(outs / "lung_he_imagealignment.csv", content)
    with pytest.raises(ds.errors.InputError, match=message):
        ds.io.xenium(outs, image="lung_he_image.ome.tif")


def test_alignment_of_another_section(outs):
    matrix = turned()
    matrix[:2, 2] += 5000
    write_matrix(outs / "lung_he_imagealignment.csv", matrix)
    with pytest.raises(ValueError, match=r"30 of 30 spots lie outside image 'lung_he_image\.ome\.tif'"):
        ds.io.xenium(outs, image="lung_he_image.ome.tif")


def test_cells_beside_the_image_are_counted(outs, log):
    matrix = turned(0)
    write_image(outs / "lung_he_image.ome.tif", matrix)
    matrix[0, 2] = 90 / PIXEL  # the left border is between two columns of cells
    write_matrix(outs / "lung_he_imagealignment.csv", matrix)
    sdata = ds.io.xenium(outs, image="lung_he_image.ome.tif", nucleus_boundaries=True)
    shown = XY[:, 0] > 90
    assert sdata["cell_boundaries"].index.tolist() == sdata["table"].obs["cell_id"].tolist() == NAMES[shown].tolist()
    assert set(sdata["nucleus_boundaries"]["parent"]) == {NAMES[5], NAMES[29]}
    assert any(line.startswith("10 of 30 cells lie outside the H&E image and are left out.") for line in log)


def test_cells_without_a_polygon_are_counted(outs, log):
    write_boundaries(outs / "cell_boundaries.parquet", 5, np.arange(N - 3))
    sdata = ds.io.xenium(outs)
    assert len(sdata["cell_boundaries"]) == sdata["table"].n_obs == N - 3
    assert "3 of 30 cells have no polygon and are left out." in log


def test_colors_as_channels_of_an_ome_tiff(outs):
    path = outs / "lung_he_image.ome.tif"
    image = tifffile.imread(path)
    tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"})
    pixels = ds.io.xenium(outs, image=path)["he_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
    np.testing.assert_array_equal(pixels, image)
    dark = (255 - image).transpose(2, 0, 1)
    tifffile.imwrite(path, dark, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(ds.errors.InputError, match="holds three dark channels, which are fluorescence"):
        ds.io.xenium(outs, image=path)


@pytest.mark.parametrize(
    ("convert", "options", "message"),
    [
        (lambda image: image.astype(np.uint16), {"photometric": "rgb"}, "holds uint16 and not uint8"),
        (lambda image: image[..., 0], {"photometric": "minisblack"}, "is gray"),
    ],
)
def test_images_in_other_colors(outs, convert, options, message):
    path = outs / "lung_he_image.ome.tif"
    tifffile.imwrite(path, convert(tifffile.imread(path)), **options)
    with pytest.raises(ds.errors.InputError, match=message):
        ds.io.xenium(outs, image=path)


def test_no_folder_and_no_image(outs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        ds.io.xenium(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"There is no image other\.tif \(nor in "):
        ds.io.xenium(outs, image="other.tif")


@pytest.mark.parametrize(
    "name",
    ["experiment.xenium", "cells.parquet", "cell_feature_matrix.h5", "cell_boundaries.parquet", "cells.zarr.zip"],
)
def test_missing_and_damaged_files(outs, name):
    content = (outs / name).read_bytes()
    (outs / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ds.errors.InputError, match="is damaged, incomplete or not a valid"):
        ds.io.xenium(outs)
    (outs / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"outs has no {name}"):
        ds.io.xenium(outs)


@pytest.mark.parametrize("size", [None, "wide", -1, 353])
def test_implausible_pixels(outs, size):
    (outs / "experiment.xenium").write_text(json.dumps({"pixel_size": size, "analysis_sw_version": "xenium-3.1.0.0"}))
    with pytest.raises(ds.errors.DeepSpotError, match="pixel_size"):
        ds.io.xenium(outs)


def test_cells_with_numbers(outs):
    """The layout of Xenium Onboard Analysis 1.0."""
    specs = {"pixel_size": PIXEL, "analysis_sw_version": "Xenium-1.0.2"}
    (outs / "experiment.xenium").write_text(json.dumps(specs))
    numbers = dict(zip(NAMES, np.arange(1, N + 1), strict=True))
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        table = pd.read_parquet(outs / f"{name}.parquet").drop(columns="label_id", errors="ignore")
        table = table.drop_duplicates() if name == "nucleus_boundaries" else table
        table.assign(cell_id=table["cell_id"].map(numbers)).to_parquet(outs / f"{name}.parquet", index=False)
    with h5py.File(outs / "cell_feature_matrix.h5", "a") as file:
        file["matrix/barcodes"][:] = [str(number) for number in range(1, N + 1)]
    (outs / "cells.zarr.zip").unlink()
    with zarr.storage.ZipStore(outs / "cells.zarr.zip", mode="w") as store:
        zarr.create_group(store, zarr_format=2)["cell_id"] = np.arange(1, N + 1, dtype=np.uint32)
    sdata = ds.io.xenium(outs, image="lung_he_image.ome.tif")
    assert sdata["table"].obs["cell_id"].tolist() == sdata["cell_boundaries"].index.tolist() == list(range(1, N + 1))
    np.testing.assert_allclose(centers_um(sdata, "cell_boundaries"), XY, atol=1e-4)


@pytest.mark.parametrize("option", [{"cells_as_circles": True}, {"gex_only": False}, {"aligned_images": True}])
def test_unknown_options(outs, option):
    with pytest.raises(TypeError, match=f"`xenium` has no argument '{next(iter(option))}'"):
        ds.io.xenium(outs, **option)


def test_train_predict_and_read_again(outs, quick, tmp_path):
    from spatialdata import read_zarr

    sdata = ds.io.xenium(outs, image="lung_he_image.ome.tif")
    with pytest.raises(ValueError, match="no column 'diameter_um'"):
        ds.models.train(sdata, genes=["KRT5", "ACTA2"], encoder=quick["encoder"])
    options = quick | {"patient_key": None, "genes": ["KRT5", "ACTA2"]}
    model = ds.models.train(sdata, tiles={"tile_um": 20}, **options)
    ds.tl.predict(sdata, model, encoder=quick["encoder"])
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert microns_per_pixel(again, "he_image") == pytest.approx(SCALE * PIXEL)
    np.testing.assert_array_equal(again["deepspot_cell_boundaries"].X, sdata["deepspot_cell_boundaries"].X)
    assert again["deepspot_cell_boundaries"].obs_names.tolist() == NAMES.tolist()
