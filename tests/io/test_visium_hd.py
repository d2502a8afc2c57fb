import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csc_matrix

import deepspot as ds
from deepspot._sdata.tables import array_positions
from deepspot._sdata.view import select_image_and_shapes
from deepspot._spatial.transforms import centers_um, microns_per_pixel

MPP, SIDE = 0.5, 7  # µm per pixel, bins of 16 µm along one side
HIRES, LOWRES = 0.5, 0.1
TURN = np.radians(2)
EMPTY = 10  # a bin in tissue without counts


def bins(bin_um):
    """Rows, columns and centers in pixels of the bins on the array, which is turned by 2° in the image."""
    n = SIDE * 16 // bin_um
    row, col = (axis.ravel() for axis in np.mgrid[:n, :n])
    xy = (np.column_stack([col, row]) + 0.5) * bin_um / MPP
    return row, col, xy @ np.array([[np.cos(TURN), np.sin(TURN)], [-np.sin(TURN), np.cos(TURN)]]) + [40, 30]


def names(bin_um):
    row, col, _ = bins(bin_um)
    return np.array([f"s_{bin_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)])


def write_counts(path, barcodes, counts, kinds=("Gene Expression",) * 3 + ("Antibody Capture",)):
    """A matrix of Space Ranger: genes × barcodes in columns."""
    counts = csc_matrix(counts.astype(np.int32))
    text = h5py.string_dtype("ascii", 24)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype=text)
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.shape, dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(4)], dtype=text)
        features["name"] = np.array(["ACTB", "TBCE", "TBCE", "CD3"], dtype=text)
        features["feature_type"] = np.array(list(kinds), dtype=text)
        features["genome"] = np.array(["GRCh38"] * 4, dtype=text)
        features["_all_tag_keys"] = np.array(["genome"], dtype=text)


def write_factors(folder, bin_um, **changes):
    factors = {
        "spot_diameter_fullres": bin_um / MPP,
        "bin_size_um": float(bin_um),
        "microns_per_pixel": MPP,
        "regist_target_img_scalef": 0.2,
        "tissue_lowres_scalef": LOWRES,
        "fiducial_diameter_fullres": 400.0,
        "tissue_hires_scalef": HIRES,
    }
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors | changes))


def write_positions(folder, bin_um):
    row, col, xy = bins(bin_um)
    table = pd.DataFrame({"barcode": names(bin_um), "in_tissue": (row > 0).astype(np.int64)})
    table["array_row"], table["array_col"] = row, col
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = xy[:, 1], xy[:, 0]
    table.sample(frac=1, random_state=0).to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)


def counts_of(bin_um):
    """Counts (4, bins): those of the first gene are the number of the bin + 1, so that rows can be told apart."""
    n = len(names(bin_um))
    counts = np.vstack([np.arange(n) + 1, np.full(n, 2), np.zeros(n), np.full(n, 5)])
    counts[:, EMPTY] = 0
    return counts


def write_bins(outs, bin_um):
    folder = outs / "binned_outputs" / f"square_{bin_um:03d}um"
    (folder / "spatial").mkdir(parents=True)
    write_positions(folder, bin_um)
    write_factors(folder, bin_um)
    inside = bins(bin_um)[0] > 0
    write_counts(folder / "filtered_feature_bc_matrix.h5", names(bin_um)[inside], counts_of(bin_um)[:, inside])
    write_counts(folder / "raw_feature_bc_matrix.h5", names(bin_um), counts_of(bin_um))


def color(i):
    return np.array([4 * i, 255 - 4 * i, 60], np.uint8)


def write_images(outs):
    image = np.full((320, 330, 3), 240, np.uint8)
    for i, (x, y) in enumerate(np.round(bins(16)[2]).astype(int)):
        image[y - 16 : y + 16, x - 16 : x + 16] = color(i)
    tifffile.imwrite(outs / "slide.btf", image, photometric="rgb", tile=(256, 256), bigtiff=True)
    (outs / "spatial").mkdir()
    for name, factor in {"hires": HIRES, "lowres": LOWRES}.items():
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        Image.fromarray(image).resize(size).save(outs / "spatial" / f"tissue_{name}_image.png")


@pytest.fixture
def outs(tmp_path):
    """A folder as Space Ranger writes it, with bins of 8 and 16 µm."""
    folder = tmp_path / "my sample" / "outs"
    folder.mkdir(parents=True)
    for bin_um in (8, 16):
        write_bins(folder, bin_um)
    write_images(folder)
    (folder / "feature_slice.h5").write_bytes(b"not needed")
    (folder / "binned_outputs.tar.gz").write_bytes(b"not needed")
    return folder


@pytest.fixture
def square(outs):
    return outs / "binned_outputs" / "square_016um"


def test_elements(outs, log):
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf")
    assert {name for _, name, _ in sdata.gen_elements()} == {
        "outs_square_016um",
        "outs_full_image",
        "outs_hires_image",
        "outs_lowres_image",
        "square_016um",
    }
    assert set(sdata.coordinate_systems) == {"outs", "outs_downscaled_hires", "outs_downscaled_lowres", "microns"}
    assert set(sdata["outs_square_016um"]["diameter_um"]) == {16.0}
    assert log[-1] == "Read outs: 41 bins × 3 genes, 0.5 µm per pixel, bins of 16 µm."


def test_positions_and_counts_are_of_one_bin(outs):
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf")
    kept = np.array([i for i in range(49) if i >= SIDE and i != EMPTY])
    np.testing.assert_array_equal(sdata["square_016um"].X[:, 0].toarray().ravel(), kept + 1)
    np.testing.assert_allclose(centers_um(sdata, "outs_square_016um"), bins(16)[2][kept] * MPP)
    np.testing.assert_allclose(sdata["outs_square_016um"].area, (16 / MPP) ** 2)
    np.testing.assert_array_equal(array_positions(sdata, "outs_square_016um"), np.column_stack(bins(16)[:2])[kept])
    assert sdata["square_016um"].obs["location_id"].tolist() == sdata["outs_square_016um"].index.tolist()


def test_bins_left_out_are_counted(outs, log):
    ds.io.visium_hd(outs)
    assert "1 of 42 bins of outs_square_016um have no counts and are left out." in log
    sdata = ds.io.visium_hd(outs, filtered_counts_file=False)
    assert "7 of 49 bins of outs_square_016um are not in tissue and are left out." in log
    assert sdata["square_016um"].n_obs == 41


def test_scale(outs):
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf")
    assert microns_per_pixel(sdata, "outs_full_image") == pytest.approx(MPP)
    assert microns_per_pixel(sdata, "outs_hires_image") == pytest.approx(MPP / HIRES)
    assert microns_per_pixel(sdata, "outs_lowres_image") == pytest.approx(MPP / LOWRES)


def test_embedding_selects_the_full_image(outs, cheap_encoder):
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf")
    ds.pp.embed(sdata, cheap_encoder)
    table = sdata["mean_color_outs_square_016um"]
    assert table.uns["deepspot"]["image_key"] == "outs_full_image"
    central = table.X[:, 12:15] * 32  # of 3 × 3 parts; neighbors overlap at the edges of a turned bin
    kept = [i for i in range(49) if i >= SIDE and i != EMPTY]
    np.testing.assert_allclose(central, [color(i) for i in kept])


@pytest.mark.parametrize("tile_um", [None, 55, 100])
def test_the_full_image_is_selected(outs, tile_um):
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf")
    assert select_image_and_shapes(sdata, None, None, tile_um) == ("outs_full_image", "outs_square_016um")


def test_bins_of_another_size(outs, cheap_encoder):
    sdata = ds.io.visium_hd(outs, bin_um=8, fullres_image_file="slide.btf")
    assert sdata["square_008um"].n_obs == 14 * 13
    assert set(sdata["outs_square_008um"]["diameter_um"]) == {8.0}
    with pytest.raises(ValueError, match=r"tile of 8 µm would have .*pass a larger `tile_um=`"):
        ds.pp.embed(sdata, cheap_encoder)
    ds.pp.embed(sdata, cheap_encoder, tile_um=55)
    assert sdata["mean_color_outs_square_008um"].uns["deepspot"]["image_key"] == "outs_full_image"


@pytest.mark.parametrize("bin_um", [2, 100])
def test_size_that_the_folder_does_not_have(outs, bin_um):
    with pytest.raises(ValueError, match=rf"outs has no bins of {bin_um} µm\. Choose one of `bin_um` = \[8, 16\]"):
        ds.io.visium_hd(outs, bin_um=bin_um)


def test_bins_without_the_folder_above(outs):
    for folder in (outs / "binned_outputs").iterdir():
        folder.rename(outs / folder.name)
    (outs / "binned_outputs").rmdir()
    assert "square_016um" in ds.io.visium_hd(outs).tables


def test_folders_of_other_technologies(outs, tmp_path):
    """Their reader is named, also of a folder with all files of both."""
    with pytest.raises(ValueError, match=r"an output of Visium HD, and not of Xenium\. .*`ds\.io\.visium_hd`"):
        ds.io.xenium(outs)
    visium = tmp_path / "visium"
    (visium / "spatial").mkdir(parents=True)
    (visium / "spatial" / "tissue_positions.csv").touch()
    for read, name in ((ds.io.xenium, "Xenium"), (ds.io.visium_hd, "Visium HD")):
        with pytest.raises(ValueError, match=rf"an output of Visium, and not of {name}\. .*`ds\.io\.visium`"):
            read(visium)
    xenium = tmp_path / "xenium"
    xenium.mkdir()
    (xenium / "experiment.xenium").touch()
    for read, name in ((ds.io.visium, "Visium"), (ds.io.visium_hd, "Visium HD")):
        with pytest.raises(ValueError, match=rf"an output of Xenium, and not of {name}\. .*`ds\.io\.xenium`"):
            read(xenium)


def test_no_bins(outs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere.*usually 'outs'"):
        ds.io.visium_hd(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"square_016um has no bins of Visium HD.*Pass the folder that contains"
    ):
        ds.io.visium_hd(outs / "binned_outputs" / "square_016um")
    shutil.rmtree(outs / "binned_outputs")
    with pytest.raises(FileNotFoundError, match=r"no bins of Visium HD.*Unpack binned_outputs\.tar\.gz"):
        ds.io.visium_hd(outs)


def test_segmented_cells_are_not_read(outs):
    """The reader takes them for a part of any folder, and needs them to be complete."""
    segmented = outs / "segmented_outputs"
    (segmented / "spatial").mkdir(parents=True)
    for name in ("filtered_feature_cell_matrix.h5", "cell_segmentations.geojson", "spatial/scalefactors_json.json"):
        (segmented / name).write_text("{}")
    assert list(ds.io.visium_hd(outs).shapes) == ["outs_square_016um"]


@pytest.mark.parametrize("present", [True, False])
def test_names(outs, present):
    slice_file = outs / "feature_slice.h5"
    slice_file.rename(outs / "V10_feature_slice.h5") if present else slice_file.unlink()
    (outs / "._V10_feature_slice.h5").write_bytes(b"Mac OS X")
    assert list(ds.io.visium_hd(outs).shapes) == ["V10_square_016um" if present else "outs_square_016um"]
    assert list(ds.io.visium_hd(outs, dataset_id="P 1").shapes) == ["P_1_square_016um"]


def test_without_full_image(outs, log):
    sdata = ds.io.visium_hd(outs)
    assert set(sdata.images) == {"outs_hires_image", "outs_lowres_image"}
    assert any("No full-resolution image was given" in line for line in log)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (
            lambda image: np.pad(image, [(0, 90), (0, 0), (0, 0)]),
            "other.tif",
            "but tissue_hires_image.png was made of one",
        ),
        (lambda image: image[::2, ::2], "half.tif", "but tissue_hires_image.png was made of one with about 330 × 320"),
        (lambda image: image, "CytAssist_image.tif", "is of the CytAssist"),
        (lambda image: image, "tissue_hires_image.tif", "is downscaled"),
        (lambda image: image[..., 0], "gray.tif", "is gray"),
    ],
)
def test_images_that_are_not_of_the_microscope(outs, make, name, message):
    tifffile.imwrite(outs / name, np.ascontiguousarray(make(tifffile.imread(outs / "slide.btf"))))
    with pytest.raises(ds.errors.InputError, match=rf"{name}.*{message}"):
        ds.io.visium_hd(outs, fullres_image_file=name)


def test_bins_outside_of_the_image(outs):
    shutil.rmtree(outs / "spatial")  # without downscaled images, the size is unknown
    tifffile.imwrite(outs / "part.tif", tifffile.imread(outs / "slide.btf")[:150], photometric="rgb")
    with pytest.raises(ValueError, match=r"of 41 spots lie outside image 'part\.tif'"):
        ds.io.visium_hd(outs, fullres_image_file="part.tif")


def test_missing_full_image(outs):
    with pytest.raises(FileNotFoundError, match=r"There is no image other\.tif \(nor in "):
        ds.io.visium_hd(outs, fullres_image_file="other.tif")


def test_scale_that_contradicts_the_positions(outs, square):
    write_factors(square, 16, microns_per_pixel=2 * MPP, spot_diameter_fullres=8 / MPP)
    with pytest.raises(ValueError, match=r"has 1 µm per pixel, and the distance between bins of 16 µm makes it 0\.5\."):
        ds.io.visium_hd(outs)
    assert microns_per_pixel(ds.io.visium_hd(outs, mpp=0.6), "outs_hires_image") == pytest.approx(0.6 / HIRES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bin_size_um": 8.0}, "is of bins of 8 µm, in a folder of bins of 16 µm"),
        ({"spot_diameter_fullres": 40.0}, "'spot_diameter_fullres' × 'microns_per_pixel' is 20 µm instead of the 16"),
        ({"microns_per_pixel": None}, "microns_per_pixel"),
        ({"microns_per_pixel": 353.0, "spot_diameter_fullres": 16 / 353}, r"gives 353 µm per pixel; .*0\.05 to 10"),
    ],
)
def test_scale_factors_of_no_bins(outs, square, changes, message):
    write_factors(square, 16, **changes)
    with pytest.raises(ds.errors.DeepSpotError, match=message):
        ds.io.visium_hd(outs)


@pytest.mark.parametrize(
    "name", ["filtered_feature_bc_matrix.h5", "spatial/scalefactors_json.json", "spatial/tissue_positions.parquet"]
)
def test_missing_and_damaged_files(outs, square, name):
    content = (square / name).read_bytes()
    (square / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ds.errors.InputError, match=rf"{name} is damaged, incomplete or not a valid"):
        ds.io.visium_hd(outs)
    (square / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"square_016um has no {name}"):
        ds.io.visium_hd(outs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.rename(columns={"in_tissue": "tissue"}), "must have the columns barcode, in_tissue"),
        (lambda table: table.assign(array_row=np.nan), "'array_row' of .* has no number for 49 bins"),
        (lambda table: pd.concat([table, table[:1]]), "has several rows of barcode 's_016um_"),
        (lambda table: table[:20], r"\d+ of 42 barcodes of filtered.* have no position in tissue_positions\.parquet"),
        (lambda table: table.assign(in_tissue=0), "No bin of 'outs_square_016um' is in tissue and has counts"),
    ],
)
def test_broken_positions(outs, square, change, message):
    path = square / "spatial" / "tissue_positions.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    with pytest.raises(ds.errors.InputError, match=message):
        ds.io.visium_hd(outs)


def test_genes(outs, log):
    table = ds.io.visium_hd(outs)["square_016um"]
    assert table.var_names.tolist() == ["ACTB", "TBCE", "TBCE-1"]  # and not the antibody
    assert any(line.startswith("1 gene names occur more than once ('TBCE')") for line in log)
    table = ds.io.visium_hd(outs, gene_id_key="gene_ids")["square_016um"]
    assert table.var_names.tolist() == ["ENSG0", "ENSG1", "ENSG2"]
    assert ds.io.visium_hd(outs, gex_only=False)["square_016um"].n_vars == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin_size": 8}, r"`visium_hd` has no argument 'bin_size'. Arguments .*'gex_only'"),
        ({"load_all_images": True}, "`visium_hd` has no argument 'load_all_images'"),
        ({"filtered_counts_file": "no"}, "`filtered_counts_file` must be True or False, got 'no'"),
        ({"bin_um": 0}, "`bin_um` must be at least 1"),
        ({"bin_um": "16"}, "`bin_um` must be a whole number"),
        ({"image_models_kwargs": {"scale_factors": "x"}}, "`scale_factors` of `image_models_kwargs` must be a list"),
        ({"dataset_id": "microns"}, "The slide cannot be called 'microns'"),
        ({"mpp": 353}, "`mpp` gives 353 µm per pixel"),
    ],
)
def test_options_are_checked_first(outs, options, message):
    with pytest.raises(ds.errors.DeepSpotError, match=message):
        ds.io.visium_hd(outs, **options)


def test_options_of_the_reader(outs):
    models = {"scale_factors": [2]}
    sdata = ds.io.visium_hd(outs, fullres_image_file="slide.btf", bins_as_squares=False, image_models_kwargs=models)
    assert set(sdata["outs_square_016um"]["radius"]) == {8 / MPP}
    assert list(sdata.images["outs_full_image"]) == ["scale0", "scale1"]


def test_survives_writing(outs, tmp_path):
    from spatialdata import read_zarr

    ds.io.visium_hd(outs, fullres_image_file="slide.btf").write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert microns_per_pixel(again, "outs_full_image") == pytest.approx(MPP)
    assert set(again["outs_square_016um"]["diameter_um"]) == {16.0}
