"""What image files hold, through all readers: the right colors, or a refusal with the file and advice."""

import errno
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from anndata import AnnData
from PIL import Image

import deepspot as ds
from deepspot.io import _image_file
from deepspot.io._elements import load_image

COLOR = (150, 60, 140)
SCALE = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def rgb():
    """Purple image with a red corner."""
    pixels = np.full((400, 500, 3), COLOR, np.uint8)
    pixels[:100, :200] = (230, 30, 30)
    return pixels


@pytest.fixture
def adata():
    table = AnnData(np.ones((4, 2), np.int32))
    table.obsm["spatial"] = np.array([[150.0, 150.0], [350.0, 150.0], [150.0, 350.0], [350.0, 350.0]])
    table.uns["spatial"] = {"S1": {"scalefactors": {"spot_diameter_fullres": 130.0}}}
    return table


def converted(rgb, mode):
    return np.asarray(Image.fromarray(rgb).convert(mode))


def tiffs(rgb):
    """Content of a TIFF, arguments of its writer, and what an error says about it."""
    planes = rgb.transpose(2, 0, 1)
    gray, colormap = rgb[..., 0], np.arange(768, dtype=np.uint16).reshape(3, 256)
    return {
        "12 bits": (rgb.astype(np.uint16) * 16, {"photometric": "rgb"}, "holds uint16 and not uint8.*12 bits"),
        "signed": ((rgb // 2).view(np.int8), {"photometric": "rgb"}, "holds int8 and not uint8"),
        "float": (rgb.astype(np.float32) / 255, {"photometric": "rgb"}, "holds float32 and not uint8"),
        "fourth channel": (
            np.dstack([rgb, gray]),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "holds 4 channels and not RGB",
        ),
        "gray": (gray, {"photometric": "minisblack"}, "is gray.*in color"),
        "inverted": (gray, {"photometric": "miniswhite"}, "is gray.*in color"),
        "three gray samples": (rgb, {"photometric": "minisblack", "planarconfig": "contig"}, "is gray"),
        "indexed": (gray, {"photometric": "palette", "colormap": colormap}, "holds indexed colors.*Convert it to RGB"),
        "CMYK": (converted(rgb, "CMYK"), {"photometric": "separated"}, "holds CMYK and not RGB.*Convert it to RGB"),
        "Lab": (converted(rgb, "LAB"), {"photometric": "cielab"}, "holds CIELAB and not RGB.*Convert it to RGB"),
        "images": (planes, {"photometric": "minisblack"}, "is gray|holds 3 images"),
        "turned": (
            rgb,
            {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]},
            r"is turned or mirrored by its orientation tag \(6\).*autorot",
        ),
    }


KINDS = list(tiffs(np.zeros((1, 1, 3), np.uint8)))


@pytest.mark.parametrize("kind", KINDS)
def test_other_colors_are_refused_by_all_readers(rgb, adata, tmp_path, kind):
    content, options, message = tiffs(rgb)[kind]
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, content, tile=(256, 256), metadata=None, **SCALE, **options)
    for read in (ds.io.slide, lambda path: ds.io.from_anndata(adata, path, mpp=0.5)):
        with pytest.raises(ds.errors.InputError, match=rf"S\.tif ({message})") as error:
            read(path)
        assert "[..., :3]" not in str(error.value)  # would make colors of C, M and Y


@pytest.mark.parametrize(
    ("planar", "options"),
    [
        (False, {}),
        (True, {"planarconfig": "separate"}),
        (False, {"compression": "lzw"}),
        (False, {"compression": "jpeg", "compressionargs": {"level": 95}}),
    ],
)
@pytest.mark.parametrize("tiled", [True, False])
def test_rgb_is_read_however_it_is_stored(rgb, tmp_path, planar, options, tiled):
    path = tmp_path / "S.tif"
    content = rgb.transpose(2, 0, 1) if planar else rgb
    tile = {"tile": (256, 256)} if tiled else {}
    tifffile.imwrite(path, content, photometric="rgb", metadata=None, **SCALE, **tile, **options)
    read = [load_image(path)]
    if tiled:
        read.append(ds.io.slide(path).images["S_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0))
    for pixels in read:
        assert pixels.shape == rgb.shape
        assert np.abs(pixels.astype(int) - rgb)[[50, 300], [50, 300]].max() <= 2


def test_y_cb_cr(rgb, tmp_path):
    """OpenSlide converts it, tifffile does so only for JPEG."""
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, converted(rgb, "YCbCr"), photometric="ycbcr", metadata=None, tile=(256, 256), **SCALE)
    pixels = ds.io.slide(path).images["S_image"]["scale0"]["image"][:, 300, 300].to_numpy()
    np.testing.assert_allclose(pixels, COLOR, atol=2)
    with pytest.raises(ValueError, match="holds YCBCR and not RGB"):
        load_image(path)


def test_alpha(rgb, tmp_path):
    path = tmp_path / "S.tif"
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    tifffile.imwrite(path, opaque, photometric="rgb", extrasamples=["unassalpha"], tile=(256, 256), **SCALE)
    np.testing.assert_array_equal(ds.io.slide(path).images["S_image"]["scale0"]["image"][:, 300, 300], COLOR)
    Image.fromarray(opaque).save(tmp_path / "S.png")
    for name in ("S.tif", "S.png"):
        with pytest.raises(ValueError, match=rf"{name} has an alpha channel.*vips flatten"):
            load_image(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("a.png", "L", "is gray"),
        ("a.png", "LA", "is gray"),
        ("a.png", "1", "is gray"),
        ("a.png", "P", "holds indexed colors"),
        ("a.jpg", "L", "is gray"),
        ("a.jpg", "CMYK", "holds CMYK"),
    ],
)
def test_modes_of_pillow(rgb, tmp_path, name, mode, message):
    Image.fromarray(rgb).convert(mode).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        load_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_orientation_of_a_photo(rgb, tmp_path, name):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(tmp_path / name, exif=exif)
    with pytest.raises(ValueError, match=rf"{name} is turned or mirrored by its orientation tag \(6\)"):
        load_image(tmp_path / name)
    exif[274] = 1
    Image.fromarray(rgb).save(tmp_path / name, exif=exif)
    assert load_image(tmp_path / name).shape == rgb.shape


def write_png(path, width, height, depth):
    """Write the header of a PNG in RGB, and no pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_16_bits_in_a_png(tmp_path):
    """Pillow reads them as 8, which makes an image of 12 bits black."""
    with pytest.raises(ValueError, match=r"a\.png holds uint16 and not uint8"):
        load_image(write_png(tmp_path / "a.png", 40, 40, 16))


def write_ppm(path, pixels, largest):
    height, width = pixels.shape[:2]
    header = f"P6 # made by hand\n{width} {height}\n{largest}\n".encode()
    path.write_bytes(header + pixels.astype(np.uint8 if largest < 256 else ">u2").tobytes())


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_more_than_8_bits_in_other_formats(rgb, tmp_path, bits):
    """Pillow converts them to 8 without a message."""
    pixels = rgb.astype(np.uint16) * 4
    for codec in ("jp2", "j2k"):
        (tmp_path / f"a.{codec}").write_bytes(
            imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, codecformat=codec, reversible=True)
        )
    write_ppm(tmp_path / "a.ppm", pixels, 2**bits - 1)
    for codec in ("jp2", "j2k", "ppm"):
        with pytest.raises(ValueError, match=rf"a\.{codec} holds uint{bits} and not uint8"):
            load_image(tmp_path / f"a.{codec}")


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k", "a.ppm", "a.bmp", "a.webp", "a.tga"])
def test_8_bits_in_other_formats(rgb, tmp_path, name):
    Image.fromarray(rgb).save(tmp_path / name)
    assert np.abs(load_image(tmp_path / name)[[50, 300], [50, 300]] - rgb[[50, 300], [50, 300]].astype(int)).max() <= 2


def test_unknown_bits_in_other_formats(rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.sgi")
    with pytest.raises(ValueError, match=r"a\.sgi holds an unknown number of bits"):
        load_image(tmp_path / "a.sgi")


@pytest.mark.parametrize("options", [{}, {"image_scale": 0.5}])
def test_a_small_image_before_a_larger_one(rgb, adata, tmp_path, options):
    with tifffile.TiffWriter(tmp_path / "S.tif") as file:
        for pixels in (rgb[::2, ::2], rgb):
            file.write(pixels, photometric="rgb", metadata=None)
    with pytest.raises(ValueError, match=r"S\.tif begins with an image of 250 × 200 px.*larger one of 500 × 400"):
        ds.io.from_anndata(adata, tmp_path / "S.tif", mpp=0.5, **options)


def rewrite(path, **tags):
    """Overwrite tags of the first page of a TIFF."""
    with tifffile.TiffFile(path) as file:
        stored = {name: file.pages.first.tags[name] for name in tags}
    with path.open("r+b") as file:
        for name, value in tags.items():
            file.seek(stored[name].valueoffset)
            file.write(struct.pack("<I" if stored[name].dtype == 4 else "<H", value))
    return path


SIZE = {"ImageWidth": 10**6, "ImageLength": 10**6}


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({"rowsperstrip": 400}, SIZE | {"RowsPerStrip": 10**6}),
        ({"tile": (256, 256)}, SIZE),
        ({"tile": (256, 256)}, SIZE | {"TileWidth": 2**20 - 16, "TileLength": 2**20 - 16}),
    ],
)
def test_a_damaged_size_is_refused_before_memory_is_used(rgb, adata, tmp_path, options, tags):
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", compression="zlib", metadata=None, **SCALE, **options)
    rewrite(path, **tags)
    with pytest.raises(ds.errors.InputError, match=r"S\.tif states a size of 1,000,000 × 1,000,000 px"):
        ds.io.from_anndata(adata, path, mpp=0.5)
    with pytest.raises(ds.errors.InputError, match=r"S\.tif"):
        ds.io.slide(path)


def test_a_damaged_size_of_tiles(rgb, tmp_path):
    """OpenSlide would end the process."""
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", compression="zlib", metadata=None, tile=(256, 256), **SCALE)
    rewrite(path, TileWidth=65_520, TileLength=65_520)
    with pytest.raises(ds.errors.InputError, match=r"S\.tif states tiles of 65,520 × 65,520 px"):
        ds.io.slide(path)


def test_more_than_the_memory(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.png states a size of 1,000,000 × 1,000,000 px"):
        load_image(write_png(tmp_path / "a.png", 10**6, 10**6, 8))
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10**9)
    with pytest.raises(ValueError, match=r"30,000 × 20,000 px: 2 GB, more than the memory of this machine \(1 GB\)"):
        load_image(write_png(tmp_path / "a.png", 30_000, 20_000, 8))


@pytest.mark.parametrize("part", [0, 4, 20, 0.4, 0.8])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {}),
        ("a.tif", {"compression": None}),
        ("a.tif", {"compression": "lzw"}),
        ("a.tif", {"compression": "zlib", "tile": (128, 128)}),
        ("a.tif", {"compression": "jpeg", "rowsperstrip": 64}),
    ],
)
def test_incomplete_files(tmp_path, name, options, part):
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    if options:
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)
    else:
        Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: part if part in (0, 4, 20) else int(len(whole) * part)])
    with pytest.raises(ds.errors.InputError, match=rf"{name} is damaged, incomplete or not a valid image \(.*\)\."):
        load_image(path)


def test_other_files(adata, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    with pytest.raises(ds.errors.InputError, match=r"page\.jpg is damaged, incomplete or not a valid image"):
        ds.io.from_anndata(adata, tmp_path / "page.jpg", mpp=0.5)
    (tmp_path / "._S.tif").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    for read in (ds.io.slide, lambda path: ds.io.from_anndata(adata, path, mpp=0.5)):
        with pytest.raises(ds.errors.InputError, match=r"\._S\.tif is not an image, but a file that macOS adds"):
            read(tmp_path / "._S.tif")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_errors_of_the_system_are_kept(rgb, tmp_path, monkeypatch, number):
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def broken(path):
        raise OSError(number, "of the system", str(path))

    monkeypatch.setattr(_image_file, "is_tiff", broken)
    with pytest.raises(OSError, match=r"of the system: .*a\.png"):
        load_image(tmp_path / "a.png")


def test_a_warning_that_a_filter_raises_is_no_damage(rgb, tmp_path, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def warned(path):
        raise DeprecationWarning("of a library")

    monkeypatch.setattr(_image_file, "is_tiff", warned)
    with pytest.raises(DeprecationWarning, match="of a library"):
        load_image(tmp_path / "a.png")


def test_home_and_brackets(rgb, adata, tmp_path, monkeypatch):
    folder = tmp_path / "run [1]*"
    folder.mkdir()
    tifffile.imwrite(folder / "S.tif", rgb, photometric="rgb", tile=(256, 256), **SCALE)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (folder / "S.tif", "~/run [1]*/S.tif"):
        assert np.asarray(ds.io.from_anndata(adata, path, mpp=0.5).images["S1_image"]).shape == (3, 400, 500)
        assert ds.io.slide(path).images["S_image"]["scale0"]["image"].shape == (3, 400, 500)


def test_too_little_memory(rgb, tmp_path, monkeypatch):
    def full(path):
        raise MemoryError

    Image.fromarray(rgb).save(tmp_path / "a.png")
    monkeypatch.setattr(_image_file, "is_tiff", full)
    with pytest.raises(ds.errors.InputError, match=r"a\.png needs more memory than is free"):
        load_image(tmp_path / "a.png")
