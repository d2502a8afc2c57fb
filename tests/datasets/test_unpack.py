import gzip
import os
import zipfile

import pytest

from deepspot.datasets._shared.h5ad import read_table
from deepspot.datasets._shared.unpack import gunzip, unzip


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "a.h5ad.gz"
    path.write_bytes(gzip.compress(os.urandom(100_000)))
    return path


def nothing_left(folder):
    return not [path for path in folder.iterdir() if path.suffix not in (".gz", ".zip")]


def test_gunzip(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"content"))
    assert gunzip(tmp_path / "a.gz", tmp_path / "deep" / "a", 1).read_bytes() == b"content"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "a"]


def test_gunzip_cut_off(packed, tmp_path):
    packed.write_bytes(packed.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"a\.h5ad\.gz is damaged or cut off .* Delete it"):
        gunzip(packed, tmp_path / "a", 1)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("place", [0, 5_000])
def test_gunzip_damaged(packed, tmp_path, place):
    content = bytearray(packed.read_bytes())
    content[place : place + 200] = bytes(200)
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5ad\.gz is damaged or cut off"):
        gunzip(packed, tmp_path / "a", 1)
    assert nothing_left(tmp_path)


def test_gunzip_bomb(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(30_000_000)))
    assert bomb.stat().st_size < 50_000
    with pytest.raises(ValueError, match=r"bomb\.gz unpacks to more than 0\.01 GB.*`max_gb=`"):
        gunzip(bomb, tmp_path / "bomb", 0.01)
    assert nothing_left(tmp_path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("top/a.h5ad", b"content")
        members.writestr("../outside", b"escaped")
        members.writestr("top/bomb", bytes(30_000_000))
        members.writestr("top/stored", b"as it is", zipfile.ZIP_STORED)
    return path


def test_unzip(archive, tmp_path):
    assert unzip(archive, "top/a.h5ad", tmp_path / "deep" / "a", 1).read_bytes() == b"content"
    assert not (tmp_path.parent / "outside").exists()


def test_unzip_missing_bomb_and_damage(archive, tmp_path):
    with pytest.raises(ValueError, match=r"a\.zip has no 'top/b\.h5ad'"):
        unzip(archive, "top/b.h5ad", tmp_path / "b", 1)
    with pytest.raises(ValueError, match=r"more than 0\.01 GB"):
        unzip(archive, "top/bomb", tmp_path / "b", 0.01)
    archive.write_bytes(archive.read_bytes().replace(b"as it is", b"as it be"))
    with pytest.raises(ValueError, match="damaged or cut off"):
        unzip(archive, "top/stored", tmp_path / "b", 1)
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        unzip(archive, "top/a.h5ad", tmp_path / "b", 1)
    assert nothing_left(tmp_path)


def test_files_that_take_from_others_or_are_bombs_are_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = [1]
    with h5py.File(tmp_path / "link.h5ad", "w") as file:
        file["obs"] = h5py.ExternalLink("other.h5", "secret")
    with pytest.raises(ValueError, match=r"link\.h5ad takes 'obs' from another file"):
        read_table(tmp_path / "link.h5ad")
    with h5py.File(tmp_path / "bomb.h5ad", "w") as file:
        file.create_dataset("X", (10**6, 10**4), "f4", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(ValueError, match=r"bomb\.h5ad unpacks to 40\.0 GB"):
        read_table(tmp_path / "bomb.h5ad")
