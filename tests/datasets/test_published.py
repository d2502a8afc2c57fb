import gzip
import hashlib
import os
import zipfile
from types import SimpleNamespace

import pooch
import pytest
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st

from deepspot.datasets._hest import REPO, SOURCE
from deepspot.datasets._published import Missing, check_name, fetch_from_hub, fetch_from_url, unpack

MISSING = Missing("Sample 'X' is not here", "Copy it.", ["Y"])


@pytest.mark.parametrize("name", ["TENX152", "INT1", "TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-CDBC-4401-A10A"])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../b", "a/b", "/a", "a\\b", "a..b", ".a", "a.", "a b", "a*", "a[b]", "a{}", "a\n"],
)
def test_paths_are_not_names(name):
    with pytest.raises(ValueError, match="`sample` must be the name of a sample"):
        check_name(name)


def test_names_are_text():
    with pytest.raises(TypeError, match="`sample` must be text"):
        check_name(152)


@given(st.text(max_size=30))
def test_no_name_leaves_the_folder(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp().resolve()
    try:
        name = check_name(text)
    except ValueError:
        return
    for parts in SOURCE.layouts.values():
        for patterns in parts.values():
            for pattern in patterns:
                path = (root / pattern.format(name)).resolve()
                assert path.is_relative_to(root)
                assert path.name == pattern.format(name).rpartition("/")[2]


def test_the_first_complete_folder_is_used(nothing_here, tmp_path, monkeypatch):
    for place, names in {"a": ("st/X.h5ad",), "b/hest": ("st/X.h5ad", "wsis/X.tif", "metadata/X.json")}.items():
        for name in names:
            (tmp_path / place / name).parent.mkdir(parents=True)
            (tmp_path / place / name).touch()
    incomplete = rf"not complete on this machine: {tmp_path / 'a'} has \['X.h5ad'\] but lacks \['metadata/X.json'"
    with pytest.raises(FileNotFoundError, match=incomplete):
        SOURCE.find("X", tmp_path / "a", download=False)
    missing = SOURCE.find("Y", tmp_path / "a", download=True)
    assert missing.local == ["X"]
    assert f"neither in {tmp_path / 'a'}, in DEEPSPOT_DATA (not set) nor in the cache" in missing.where
    monkeypatch.setenv("DEEPSPOT_DATA", str(tmp_path / "b"))
    files = SOURCE.find("X", tmp_path / "a", download=False)
    assert files.layout == "published"
    assert files.paths["image"] == tmp_path / "b/hest/wsis/X.tif"


def test_a_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere.* 'st', 'metadata' and 'wsis'"):
        SOURCE.places(tmp_path / "nowhere")


def from_hub(path="st/X.h5ad", token="hf_secret"):
    return fetch_from_hub(SOURCE, REPO, path, token, MISSING, "HEST_v*.csv")


def raised(kind):
    response = SimpleNamespace(headers={}, request=None)
    try:
        return kind("refused", response=response)
    except TypeError:
        return kind("refused")


def test_the_hub_is_used_once(hub, nothing_here, log):
    (hub.folder / "st").mkdir(parents=True)
    (hub.folder / "st/X.h5ad").write_bytes(b"content")
    path = from_hub()
    assert path == nothing_here / "hest/st/X.h5ad"
    assert path.read_bytes() == b"content"
    assert from_hub() == path
    assert hub.asked == [("MahmoodLab/hest", "st/X.h5ad", "hf_secret")]
    assert len(log) == 1
    assert "CC BY-NC-SA 4.0" in log[0]
    with pytest.raises(KeyError, match=r"`'st/Z\.h5ad'` not found .* in HEST_v\*\.csv\. Local samples: \['Y'\]"):
        from_hub("st/Z.h5ad")


@pytest.mark.parametrize("kind", [errors.GatedRepoError, errors.RepositoryNotFoundError])
def test_access_is_denied(hub, kind):
    hub.error = raised(kind)
    with pytest.raises(PermissionError, match=r"accept the terms .* `token=` or .* HF_TOKEN\. Copy it") as caught:
        from_hub()
    assert SOURCE.page in str(caught.value)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (raised(errors.LocalEntryNotFoundError), "no connection"),
        (errors.OfflineModeIsEnabled("off"), "no connection"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("client"), "RuntimeError: client"),
    ],
)
def test_the_hub_cannot_be_reached(hub, error, said):
    hub.error = error
    with pytest.raises(ConnectionError, match=rf"'X' is not here, and could not be downloaded \({said}\)\. Copy it\."):
        from_hub()


def test_a_full_disk_is_not_a_failed_connection(hub):
    hub.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught:
        from_hub()
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("url", ["https://example.org/", "doi:10.5281/zenodo.1"])
def test_files_of_the_web_are_verified(web, nothing_here, monkeypatch, url):
    web.folder.mkdir()
    with pytest.raises(
        ConnectionError, match=r"'X' is not here, and could not be downloaded \(ConnectionError\)\. Copy"
    ):
        fetch_from_url(SOURCE, url, "a.zip", MISSING)
    (web.folder / "a.zip").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    for _ in range(2):
        path = fetch_from_url(SOURCE, url, "a.zip", MISSING, digest)
        assert path == nothing_here / "hest/a.zip"
        assert path.read_bytes() == b"content"
    assert len(web.asked) == 2
    path.unlink()
    wrong = digest.replace(digest[0], "x")
    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", lambda self: None)
    with pytest.raises(ValueError, match="does not match the known hash"):
        fetch_from_url(SOURCE, url, "a.zip", MISSING, wrong)
    assert list(path.parent.iterdir()) == []


def test_a_record_that_cannot_be_found(web, monkeypatch):
    def fail(self):
        raise ValueError("Archive with doi not found")

    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", fail)
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(ValueError\)\. Copy it"):
        fetch_from_url(SOURCE, "doi:10.5281/zenodo.1", "a.zip", MISSING)


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "a.h5ad.gz"
    path.write_bytes(gzip.compress(os.urandom(100_000)))
    return path


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("top/a.h5ad", b"content")
        members.writestr("../outside", b"escaped")
        members.writestr("top/bomb", bytes(30_000_000))
        members.writestr("top/stored", b"as it is", zipfile.ZIP_STORED)
    return path


def nothing_left(folder):
    return not [path for path in folder.iterdir() if path.suffix not in (".gz", ".zip")]


def test_unpack(archive, packed, tmp_path):
    assert unpack(archive, tmp_path / "deep" / "a", 1, member="top/a.h5ad").read_bytes() == b"content"
    assert unpack(packed, tmp_path / "deep" / "b", 1).read_bytes() == gzip.decompress(packed.read_bytes())
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a", "b"]
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("at", [0, 5_000, None])
def test_a_damaged_or_incomplete_gzip_leaves_no_file(packed, tmp_path, at):
    content = bytearray(packed.read_bytes())
    if at is None:
        del content[-500:]
    else:
        content[at : at + 200] = bytes(200)
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5ad\.gz is damaged or incomplete .* Delete it"):
        unpack(packed, tmp_path / "a", 1)
    assert nothing_left(tmp_path)


def test_a_damaged_or_foreign_archive_leaves_no_file(archive, tmp_path):
    with pytest.raises(ValueError, match=r"a\.zip has no 'top/b\.h5ad'"):
        unpack(archive, tmp_path / "b", 1, member="top/b.h5ad")
    archive.write_bytes(archive.read_bytes().replace(b"as it is", b"as it be"))
    with pytest.raises(ValueError, match="damaged or incomplete"):
        unpack(archive, tmp_path / "b", 1, member="top/stored")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        unpack(archive, tmp_path / "b", 1, member="top/a.h5ad")
    assert nothing_left(tmp_path)


def test_a_zip_bomb_leaves_no_file(archive, tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(30_000_000)))
    for path, member in ((bomb, None), (archive, "top/bomb")):
        with pytest.raises(ValueError, match=rf"{path.name} unpacks to more than 0\.01 GB.*`max_gb=`"):
            unpack(path, tmp_path / "bomb", 0.01, member=member)
    assert nothing_left(tmp_path)
