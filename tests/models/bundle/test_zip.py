"""A bundle in a zip: the same as its folder, and read without trust."""

import struct
import warnings
import zipfile

import numpy as np
import pytest

import deepspot as ds
from deepspot.models._bundle.files import CARD, WEIGHTS


@pytest.fixture
def bundle(tiny, tmp_path):
    tiny.save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


@pytest.fixture
def files(bundle):
    with zipfile.ZipFile(bundle) as file:
        return {name: file.read(name) for name in (CARD, WEIGHTS)}


def write(path, entries, **change):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in change.items():
                setattr(info, key, value)
            file.writestr(info, content)


def refused(path, message):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        ds.models.load(path)
    assert str(path) in str(error.value)
    assert sorted(path.parent.rglob("*")) == before  # nothing was unpacked


def test_a_zip_is_the_folder(tiny, bundle, files, tmp_path):
    tiny.save(tmp_path / "folder")
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == files
    assert ds.models.load(bundle).fingerprint == tiny.fingerprint
    assert ds.models.DeepSpot.load(bundle).fingerprint == tiny.fingerprint
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_same_model_makes_the_same_zip(tiny, bundle, tmp_path):
    tiny.save(tmp_path / "again.ZIP")
    assert (tmp_path / "again.ZIP").read_bytes() == bundle.read_bytes()


def test_one_made_by_hand_with_a_page_is_read(tiny, bundle, files):
    write(bundle, [("README.md", b"# A model"), *files.items()])
    assert ds.models.load(bundle).fingerprint == tiny.fingerprint


def test_a_zip_is_known_by_its_content(tiny, bundle, tmp_path):
    bundle.rename(tmp_path / "download")
    assert ds.models.load(tmp_path / "download").fingerprint == tiny.fingerprint


def test_nothing_is_overwritten_unasked(tiny, bundle, tmp_path):
    with pytest.raises(ValueError, match="overwrite=True"):
        tiny.save(bundle)
    tiny.save(bundle, overwrite=True)
    write(tmp_path / "thesis.zip", [("chapter.tex", b"precious")])
    (tmp_path / "folder.zip").mkdir()
    tiny.save(tmp_path / "plain")
    for name in ("thesis.zip", "folder.zip"):
        with pytest.raises(ValueError, match="is no bundle"):
            tiny.save(tmp_path / name, overwrite=True)
    assert zipfile.ZipFile(tmp_path / "thesis.zip").namelist() == ["chapter.tex"]


def test_a_failed_save_leaves_the_old_zip(tiny, bundle, monkeypatch):
    before = bundle.read_bytes()
    monkeypatch.setattr("deepspot.models._bundle.bundle.pack", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tiny.save(bundle, overwrite=True)
    assert bundle.read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.parametrize("name", [
    "../evil.py", "/etc/cron.d/evil", "..\\evil.py", f"../{CARD}", f"model/{CARD}", "model.pkl", "x/",
])  # fmt: skip
def test_anything_else_in_it_is_refused(bundle, files, name):
    write(bundle, [*files.items(), (name, b"evil")])
    refused(bundle, r"at the top of the zip and nothing else\. Nothing was unpacked")


def test_a_name_that_is_cut_off_by_a_reader_is_refused(bundle, files):
    write(bundle, [(f"{CARD}#.py", files[CARD]), (WEIGHTS, files[WEIGHTS])])
    bundle.write_bytes(bundle.read_bytes().replace(b"#.py", b"\x00.py"))
    refused(bundle, r"holds 'card.json\\x00.py', but")


def test_a_link_is_refused(bundle, files):
    write(bundle, files.items(), external_attr=0o120777 << 16)
    refused(bundle, "a link in place of card.json")


def test_a_file_that_is_there_twice_is_refused(bundle, files):
    write(bundle, [*files.items(), (CARD, b"{}")])
    refused(bundle, "holds a file twice")


def test_an_encrypted_zip_is_refused(bundle, files):
    data = bytearray(bundle.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    bundle.write_bytes(data)
    refused(bundle, "is encrypted. Unpack it with its password")


def test_an_unusual_compression_is_refused(bundle, files):
    write(bundle, files.items())
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_LZMA) as file:
        for name, content in files.items():
            file.writestr(name, content)
    refused(bundle, "compressed in a way that is not read here")


def test_many_files_are_refused_before_they_are_listed(bundle, files, monkeypatch):
    write(bundle, [*files.items(), *((f"{i}.txt", b"") for i in range(5000))])
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refused(bundle, "holds more than a bundle: 5,002 files")


@pytest.mark.parametrize("end", [b"note", b"PK\x05\x06"])
def test_what_follows_the_end_is_refused(bundle, end):
    with bundle.open("ab") as file:
        file.write(end)
    refused(bundle, "truncated, or no zip")


def test_a_truncated_zip_is_refused(bundle):
    content = bundle.read_bytes()
    for size in np.linspace(0, len(content) - 1, 40).astype(int):
        bundle.write_bytes(content[:size])
        refused(bundle, "truncated")


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_bomb_is_refused_by_what_it_says(bundle, files, name):
    write(bundle, (files | {name: files[name] + bytes(30_000_000)}).items())
    assert bundle.stat().st_size < 100_000
    refused(bundle, "zip bomb")


@pytest.mark.parametrize(
    ("packed", "unpacked", "message"),
    [
        (None, 0, "truncated or altered"),
        (None, 1000, "truncated or altered"),
        (2**31, 30_000_000, "zip bomb"),
        (2**31, 2**32 - 1, "zip bomb"),
    ],
)
def test_a_bomb_that_lies_is_refused(bundle, files, monkeypatch, packed, unpacked, message):
    monkeypatch.setattr("deepspot.models._bundle.bundle.most_bytes", lambda *_: 2**40)
    write(bundle, [(CARD, files[CARD]), (WEIGHTS, bytes(30_000_000))])
    data = bytearray(bundle.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<2I", packed or struct.unpack("<I", data[at + 20 : at + 24])[0], unpacked)
    bundle.write_bytes(data)
    refused(bundle, message)


def test_other_bytes_than_their_checksum_says_are_refused(bundle):
    data = bytearray(bundle.read_bytes())
    data[data.index(b"tiny")] ^= 1
    bundle.write_bytes(data)
    refused(bundle, "Bad CRC-32")


def test_a_zip_without_weights_is_incomplete(bundle, files):
    write(bundle, [(CARD, files[CARD])])
    with pytest.raises(FileNotFoundError, match=r"model.zip has no model.safetensors. The bundle is incomplete"):
        ds.models.load(bundle)
    write(bundle, [(WEIGHTS, files[WEIGHTS])])
    with pytest.raises(FileNotFoundError, match=r"model.zip is no model bundle: it has no card.json"):
        ds.models.load(bundle)


def test_another_file_is_no_bundle(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(tmp_path / "model.pkl", "is no readable zip")
