import json

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
from deepspot._spatial.transforms import microns_per_pixel

MPP = 0.5
ROWS = COLS = 5
HIRES, LOWRES = 0.1, 0.03
DIAMETER = 65 / MPP


def array():
    row, col = (axis.ravel() for axis in np.mgrid[: ROWS + 2, : 2 * COLS])
    row, col = (axis[(row + col) % 2 == 0] for axis in (row, col))
    xy = np.column_stack([col * 0.5, row * np.sqrt(3) / 2]) * 100 / MPP + 150
    turn = np.radians(1)
    xy = xy @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [30, 0]
    return row, col, xy.round().astype(int)


def write_positions(folder, *, header=True):
    row, col, xy = array()
    table = pd.DataFrame({"barcode": [f"SPOT{i:03d}-1" for i in range(len(row))]})
    table["in_tissue"] = (row < ROWS).astype(int)
    table["array_row"], table["array_col"] = row, col
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = xy[:, 1], xy[:, 0]
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    table.sample(frac=1, random_state=0).to_csv(folder / "spatial" / name, index=False, header=header)
    return table[table["in_tissue"] == 1]


def write_counts(path, barcodes):
    """`filtered_feature_bc_matrix.h5` of Space Ranger: genes × barcodes in columns."""
    counts = csc_matrix(np.random.default_rng(0).poisson(1.0, (4, len(barcodes))).astype(np.int32))
    text = h5py.string_dtype("ascii", 24)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([b"V1"])
        file.attrs["chemistry_description"] = "Visium V1"
        file.attrs["software_version"] = "spaceranger-2.0.0"
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype=text)
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array(counts.shape, dtype=np.int32)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(4)], dtype=text)
        features["name"] = np.array(["ACTB", "ERBB2", "TBCE", "TBCE"], dtype=text)
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype=text)
        features["genome"] = np.array(["GRCh38"] * 4, dtype=text)
        features["_all_tag_keys"] = np.array(["genome"], dtype=text)


def color(i):
    return np.array([5 * i, 255 - 5 * i, 60], np.uint8)


def write_images(folder, spots):
    height, width = array()[2].max(axis=0)[::-1] + 150
    image = np.full((height, width, 3), 240, np.uint8)
    for i, (x, y) in enumerate(zip(spots["pxl_col_in_fullres"], spots["pxl_row_in_fullres"], strict=True)):
        image[y - 60 : y + 60, x - 60 : x + 60] = color(i)
    tifffile.imwrite(folder / "slide.tif", image, photometric="rgb", tile=(256, 256))
    for name, factor in {"hires": HIRES, "lowres": LOWRES}.items():
        small = Image.fromarray(image).resize((round(width * factor), round(height * factor)))
        small.save(folder / "spatial" / f"tissue_{name}_image.png")


def write_factors(folder, **changes):
    factors = {
        "spot_diameter_fullres": DIAMETER,
        "tissue_hires_scalef": HIRES,
        "tissue_lowres_scalef": LOWRES,
        "fiducial_diameter_fullres": 1.6 * DIAMETER,
    }
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors | changes))


@pytest.fixture
def outs(tmp_path):
    folder = tmp_path / "my sample" / "outs"
    (folder / "spatial").mkdir(parents=True)
    spots = write_positions(folder)
    write_counts(folder / "filtered_feature_bc_matrix.h5", spots["barcode"].tolist())
    write_factors(folder)
    write_images(folder, spots)
    return folder


@pytest.fixture
def full(outs):
    return ds.io.visium(outs, fullres_image_file="slide.tif")


def test_elements(full):
    assert {name for _, name, _ in full.gen_elements()} == {
        "outs",
        "outs_full_image",
        "outs_hires_image",
        "outs_lowres_image",
        "table",
    }
    assert set(full.coordinate_systems) == {"outs", "outs_downscaled_hires", "outs_downscaled_lowres", "microns"}
    assert full["table"].shape == (25, 4)


def test_scale_is_fitted_on_the_array(full):
    assert microns_per_pixel(full, "outs_full_image") == pytest.approx(MPP, rel=0.005)
    assert microns_per_pixel(full, "outs_hires_image") == pytest.approx(MPP / HIRES, rel=0.005)
    assert microns_per_pixel(full, "outs_lowres_image") == pytest.approx(MPP / LOWRES, rel=0.005)


def test_spots_measure_55_and_are_drawn_as_65(full):
    assert set(full["outs"]["diameter_um"]) == {55.0}
    assert set(full["outs"]["radius"]) == {DIAMETER / 2}


def test_embedding_selects_the_full_image(full, cheap_encoder):
    ds.pp.embed(full, cheap_encoder)
    table = full["mean_color_outs"]
    assert table.uns["deepspot"]["image_key"] == "outs_full_image"
    np.testing.assert_array_equal(table.X, np.tile([color(i) for i in range(25)], 9) / 32)
    assert {tiles.shape[1] for tiles in cheap_encoder.seen} == {111, 37}
    array = full["table"].obs[["array_row", "array_col"]]
    np.testing.assert_array_equal(array_positions(full, "outs"), array)


def test_without_full_image(outs, cheap_encoder, log):
    sdata = ds.io.visium(outs)
    assert "No full-resolution image was given" in log[-1]
    assert set(sdata.images) == {"outs_hires_image", "outs_lowres_image"}
    too_small = r"'outs_hires_image': 11, 'outs_lowres_image': 3\} px, .*Add the full-resolution image"
    with pytest.raises(ValueError, match=too_small):
        ds.pp.embed(sdata, cheap_encoder)
    with pytest.raises(ValueError, match=r"'outs_hires_image' is too coarse.*Use the full-resolution image"):
        ds.pp.embed(sdata, cheap_encoder, image_key="outs_hires_image")
    assert list(sdata.tables) == ["table"]


def test_full_image_elsewhere(outs, tmp_path):
    elsewhere = (outs / "slide.tif").rename(tmp_path / "microscope.tif")
    assert "outs_full_image" in ds.io.visium(outs, fullres_image_file=elsewhere).images
    assert "outs_full_image" in ds.io.visium(outs, fullres_image_file="../../microscope.tif").images


def test_brackets_and_home(outs, tmp_path, monkeypatch):
    (tmp_path / "run [1]").mkdir()
    folder = outs.rename(tmp_path / "run [1]" / "outs")
    whole = tifffile.imread(folder / "slide.tif")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (folder, "~/run [1]/outs"):
        sdata = ds.io.visium(path, fullres_image_file="slide.tif")
        pixels = sdata.images["outs_full_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
        np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize(
    ("convert", "options", "message"),
    [
        (lambda image: image.astype(np.uint16) * 16, {"photometric": "rgb"}, "holds uint16 and not uint8"),
        (lambda image: image.transpose(2, 0, 1), {"photometric": "minisblack"}, "holds 3 images"),  # fluorescence
        (lambda image: image[..., 0], {"photometric": "minisblack"}, "is gray"),
        (lambda image: 255 - image, {"photometric": "cielab"}, "holds CIELAB"),
    ],
)
def test_full_images_in_other_colors(outs, convert, options, message):
    tifffile.imwrite(outs / "other.tif", convert(tifffile.imread(outs / "slide.tif")), **options)
    with pytest.raises(ValueError, match=rf"other\.tif {message}"):
        ds.io.visium(outs, fullres_image_file="other.tif")


def test_planes_of_the_full_image(outs):
    image = tifffile.imread(outs / "slide.tif")
    tifffile.imwrite(outs / "planar.tif", image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    sdata = ds.io.visium(outs, fullres_image_file="planar.tif", image_models_kwargs={"scale_factors": [2]})
    assert list(sdata.images["outs_full_image"]) == ["scale0", "scale1"]
    pixels = sdata.images["outs_full_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
    np.testing.assert_array_equal(pixels, image)


def test_a_damaged_full_image(outs):
    whole = (outs / "slide.tif").read_bytes()
    (outs / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ds.errors.InputError, match=r"cut\.tif is damaged, incomplete or not a valid image"):
        ds.io.visium(outs, fullres_image_file="cut.tif")


def test_names(outs):
    assert "P_1_hires_image" in ds.io.visium(outs, dataset_id="P 1").images
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "V10_filtered_feature_bc_matrix.h5")
    assert "V10_hires_image" in ds.io.visium(outs).images


def test_old_positions_without_a_header(outs):
    (outs / "spatial" / "tissue_positions.csv").unlink()
    write_positions(outs, header=False)
    sdata = ds.io.visium(outs, fullres_image_file="slide.tif")
    assert microns_per_pixel(sdata, "outs_full_image") == pytest.approx(MPP, rel=0.005)
    assert sdata["table"].n_obs == 25


def test_scale_that_contradicts_the_drawn_diameter(outs):
    write_factors(outs, spot_diameter_fullres=2 * DIAMETER)
    with pytest.raises(ValueError, match=r"array has 0\.[45]\d* µm per pixel, which makes.* 1\d\d µm instead"):
        ds.io.visium(outs)
    sdata = ds.io.visium(outs, fullres_image_file="slide.tif", mpp=0.6)
    assert microns_per_pixel(sdata, "outs_full_image") == pytest.approx(0.6)


def test_mpp_is_checked(outs):
    with pytest.raises(ValueError, match="`mpp` must be above 0"):
        ds.io.visium(outs, mpp=-1)
    with pytest.raises(ValueError, match=r"`mpp` gives 353 µm per pixel; .*0\.05 to 10"):
        ds.io.visium(outs, mpp=353)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count_file": "a.h5"}, r"`visium` has no argument 'count_file'. Arguments .*'counts_file'"),
        ({"counts_file": 5}, "`counts_file` must be a path, got int"),
        ({"scalefactors_file": "a\0b"}, "`scalefactors_file` is no path"),
        ({"imread_kwargs": 5}, "`imread_kwargs` must be a dictionary"),
        ({"image_models_kwargs": {"scale_factors": "x"}}, "`scale_factors` of `image_models_kwargs` must be a list"),
        ({"image_models_kwargs": {"scale_factors": [0]}}, "`scale_factors` must be at least 1"),
        ({"dataset_id": "Table"}, "The slide cannot be called 'Table'.*Pass `dataset_id=`"),
        ({"dataset_id": "microns"}, "The slide cannot be called 'microns'"),
        ({"dataset_id": "x" * 300}, r"has more than \d+ bytes"),
    ],
)
def test_options_are_checked_first(outs, options, message):
    with pytest.raises(ds.errors.DeepSpotError, match=message):
        ds.io.visium(outs, **options)


def test_options_that_are_none(outs):
    sdata = ds.io.visium(outs, counts_file=None, tissue_positions_file=None, image_models_kwargs=None)
    assert sdata["table"].n_obs == 25


@pytest.mark.parametrize("lost", ["matrix", "matrix/indices"])
def test_counts_with_lost_parts(outs, lost):
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "a") as file:
        del file[lost]
    with pytest.raises(ValueError, match=r"filtered_feature_bc_matrix\.h5 has no \[.*'indices'.*Get a new copy"):
        ds.io.visium(outs)


def test_repeated_gene_names_are_logged(outs, log):
    assert ds.io.visium(outs)["table"].var_names.tolist() == ["ACTB", "ERBB2", "TBCE", "TBCE-1"]
    (message,) = [line for line in log if "more than once" in line]
    assert message.startswith(
        "1 gene names occur more than once ('TBCE'). A number was appended to the later ones ('TBCE-1')."
    )


def test_ensembl_names(outs, log):
    table = ds.io.visium(outs, gene_id_key="gene_ids")["table"]
    assert table.var_names.tolist() == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]
    assert table.var["former_name"].tolist() == ["ACTB", "ERBB2", "TBCE", "TBCE-1"]
    assert not any("more than once" in line for line in log)


@pytest.mark.parametrize("tile_um", [None, 55, 100, 200])
def test_the_full_image_is_selected(full, tile_um):
    # With tiles of 100 µm the hires image has enough pixels too.
    assert select_image_and_shapes(full, None, None, tile_um) == ("outs_full_image", "outs")


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere.*usually 'outs'"):
        ds.io.visium(tmp_path / "nowhere")


def test_missing_full_image(outs):
    with pytest.raises(FileNotFoundError, match=r"There is no image other\.tif \(nor in "):
        ds.io.visium(outs, fullres_image_file="other.tif")


@pytest.mark.parametrize("change", ["larger", "turned"])
def test_image_of_another_slide(outs, change):
    image = tifffile.imread(outs / "slide.tif")
    other = (
        np.pad(image, [(0, 90), (0, 0), (0, 0)])
        if change == "larger"
        else np.rot90(np.pad(image, [(0, 0), (0, 90), (0, 0)]))
    )
    tifffile.imwrite(outs / "other.tif", np.ascontiguousarray(other), photometric="rgb", tile=(256, 256))
    with pytest.raises(ValueError, match=r"'other\.tif' has \d+ × \d+ px, but tissue_hires_image\.png was made of one"):
        ds.io.visium(outs, fullres_image_file="other.tif")


def test_no_scale_factors(outs):
    (outs / "spatial" / "scalefactors_json.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"spatial has no scalefactors_json\.json"):
        ds.io.visium(outs)


def test_scale_factors_without_the_diameter(outs):
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps({"tissue_hires_scalef": HIRES}))
    with pytest.raises(KeyError, match="spot_diameter_fullres"):
        ds.io.visium(outs)


def test_no_counts(outs):
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"filtered_feature_bc_matrix\.h5"):
        ds.io.visium(outs)


def test_no_positions(outs):
    (outs / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"outs has no spatial/tissue_positions_list\.csv or spatial/tiss"):
        ds.io.visium(outs)


def change_positions(outs, change, **options):
    path = outs / "spatial" / "tissue_positions.csv"
    change(pd.read_csv(path)).to_csv(path, index=False, **options)


def test_barcodes_without_positions(outs):
    write_counts(outs / "filtered_feature_bc_matrix.h5", [f"SPOT{i:03d}" for i in range(25)])  # without "-1"
    message = r"25 of 25 barcodes of filtered.* have no position in tissue_positions\.csv.*-1'\], and not 'SPOT000'"
    with pytest.raises(ValueError, match=message):
        ds.io.visium(outs)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda table: table, {"sep": ";"}),
        (lambda table: table, {"header": False}),
        (lambda table: table.rename(columns={"pxl_row_in_fullres": "row"}), {}),
        (lambda table: table[:0].iloc[:, :0], {}),
    ],
    ids=["semicolons", "no header", "another column", "empty"],
)
def test_positions_of_another_format(outs, change, options):
    change_positions(outs, change, **options)
    message = r"tissue_positions\.csv( must be a comma-separated table|`| is damaged)"
    with pytest.raises(ds.errors.DeepSpotError, match=message):
        ds.io.visium(outs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.assign(pxl_row_in_fullres="a"),
            r"'pxl_row_in_fullres' of .*csv has .* no number in line 2",
        ),
        (lambda table: table.assign(array_row=np.nan), r"'array_row' of .*csv has a value that is no number in line 2"),
        (lambda table: pd.concat([table, table[:1]]), r"tissue_positions\.csv has several lines of barcode 'SPOT"),
        (lambda table: table.assign(pxl_row_in_fullres=200, pxl_col_in_fullres=200), "do not follow their array"),
        (lambda table: table.iloc[:, [1, 2, 3, 4, 5, 0]], r"Column 'barcode' of .*csv must be the first, got \['in_t"),
    ],
)
def test_positions_of_no_array(outs, change, message):
    change_positions(outs, change)
    with pytest.raises(ds.errors.InputError, match=message):
        ds.io.visium(outs)


def test_positions_with_quotes(outs):
    change_positions(outs, lambda table: table, quoting=1)
    assert ds.io.visium(outs)["table"].n_obs == 25


@pytest.mark.parametrize("text", ["{", "[1]", '{"spot_diameter_fullres": NaN}', '{"spot_diameter_fullres": "wide"}'])
def test_broken_scale_factors(outs, text):
    (outs / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(ds.errors.DeepSpotError, match=r"scalefactors_json\.json"):
        ds.io.visium(outs)


def test_damaged_counts(outs):
    path = outs / "filtered_feature_bc_matrix.h5"
    content = path.read_bytes()
    path.write_bytes(content[:3000])
    with pytest.raises(
        ds.errors.InputError, match=r"filtered_feature_bc_matrix\.h5 is damaged, incomplete or not a val"
    ):
        ds.io.visium(outs)
    path.write_bytes(content)
    with h5py.File(path, "a") as file:
        del file["matrix/features/name"]
    with pytest.raises(
        ds.errors.InputError, match=r"outs is damaged, incomplete or not a valid output folder of Space"
    ):
        ds.io.visium(outs)


def test_spots_off_tissue_are_left_out(outs, log):
    row, _, _ = array()
    write_counts(outs / "raw_feature_bc_matrix.h5", [f"SPOT{i:03d}-1" for i in range(len(row))])
    sdata = ds.io.visium(outs, counts_file="raw_feature_bc_matrix.h5", fullres_image_file="slide.tif")
    assert len(sdata["outs"]) == sdata["table"].n_obs == 25
    assert sdata["table"].obs["spot_id"].tolist() == sdata["outs"].index.tolist()
    assert "10 of 35 spots of outs are not in tissue and are left out." in log


@pytest.mark.parametrize("mode", ["L", "LA", "damaged"])
def test_images_without_colors_are_left_out(outs, mode, log):
    path = outs / "spatial" / "tissue_hires_image.png"
    path.write_bytes(b"nothing") if mode == "damaged" else Image.new(mode, (150, 120)).save(path)
    assert set(ds.io.visium(outs).images) == {"outs_lowres_image"}
    assert any("tissue_hires_image.png is left out" in line for line in log)


def test_files_of_macos(outs):
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "V10_filtered_feature_bc_matrix.h5")
    for name in ("._filtered_feature_bc_matrix.h5", "._V10_filtered_feature_bc_matrix.h5"):
        (outs / name).write_bytes(b"Mac OS X")
    assert "V10" in ds.io.visium(outs).shapes


def test_counts_of_several_slides(outs):
    write_counts(outs / "V10_filtered_feature_bc_matrix.h5", [])
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "V11_filtered_feature_bc_matrix.h5")
    with pytest.raises(ValueError, match=r"counts of several slides: \['V10_.*', 'V11_.*'\]. Choose.*`counts_file=`"):
        ds.io.visium(outs)
    assert "V11" in ds.io.visium(outs, counts_file="V11_filtered_feature_bc_matrix.h5").shapes


def test_home_is_expanded(outs, monkeypatch):
    monkeypatch.setenv("HOME", str(outs.parent))
    assert "outs" in ds.io.visium("~/outs").shapes


@pytest.mark.parametrize("part", ["bins", "positions", "top"])
def test_visium_hd_is_refused(outs, part):
    if part == "bins":
        write_factors(outs, bin_size_um=16.0)
    elif part == "positions":
        (outs / "spatial" / "tissue_positions.csv").rename(outs / "spatial" / "tissue_positions.parquet")
    else:
        (outs / "binned_outputs").mkdir()
        (outs / "spatial" / "scalefactors_json.json").unlink()
    with pytest.raises(ValueError, match=r"output of Visium HD.*`ds\.io\.visium_hd`"):
        ds.io.visium(outs)


def test_regions_are_in_pixels_of_the_full_image(outs):
    """Also if there are only downscaled images, from which no tile can be read."""
    from geopandas import GeoDataFrame
    from shapely import box

    sdata = ds.io.visium(outs)
    x = sdata["outs"].geometry.x
    ds.pp.annotate(sdata, GeoDataFrame({"name": ["left"]}, geometry=[box(0, 0, x.median(), 1e6)]))
    assert (sdata["outs"]["annotation"] == "left").tolist() == (x <= x.median()).tolist()


def test_survives_writing(full, tmp_path):
    from spatialdata import read_zarr

    full.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert microns_per_pixel(again, "outs_full_image") == pytest.approx(MPP, rel=0.005)
    assert set(again["outs"]["diameter_um"]) == {55.0}
