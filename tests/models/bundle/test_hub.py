"""Models in repositories: addresses, downloads (from a fake, or the hub's own cache), uploads, errors."""

import shutil
from types import SimpleNamespace
from typing import ClassVar

import pytest
from huggingface_hub import constants, errors

import deepspot as ds
from deepspot.models._bundle import hub
from deepspot.models._bundle.bundle import CARD, WEIGHTS

COMMIT, OLDER = "a" * 40, "b" * 40


class Remote:
    """A repository elsewhere, and the cache that the hub's client would fill."""

    def __init__(self, model, folder):
        self.files, self.cache = folder / "remote", folder / "snapshots"
        model.save(self.files)
        self.asked, self.size = [], None

    def download(self, repo, name, revision, token):
        self.asked.append((repo, name, revision, token))
        commit = revision if revision in (COMMIT, OLDER) else COMMIT
        (self.cache / commit).mkdir(parents=True, exist_ok=True)
        return shutil.copy(self.files / name, self.cache / commit / name) and self.cache / commit / name

    def size_of(self, repo, name, revision, token):
        return self.size or (self.files / name).stat().st_size


@pytest.fixture
def remote(tiny, tmp_path, monkeypatch):
    fake = Remote(tiny, tmp_path)
    monkeypatch.setattr(hub, "_download", fake.download)
    monkeypatch.setattr(hub, "_size", fake.size_of)
    return fake


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The cache of Hugging Face, empty, on a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def put(hub_cache, model, repo, commit=COMMIT, ref="main"):
    folder = hub_cache / f"models--{repo.replace('/', '--')}"
    model.save(folder / "snapshots" / commit)
    if ref:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return folder / "snapshots" / commit


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://org/name", "org/name", None),
        ("hf://Org-1/na.me_2@v1.0", "Org-1/na.me_2", "v1.0"),
        ("hf://org/name@refs/pr/3", "org/name", "refs/pr/3"),
        ("hf:/org/name", "org/name", None),  # what `Path` makes of it
    ],
)
def test_addresses(text, repo, revision):
    address = hub.parse(text)
    assert (address.repo, address.revision) == (repo, revision)
    assert hub.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://name",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/b?x",
        "hf:a/b",
        "hf://a/../b",
        "hf://a/b@/x",
        "hf://a/b ",
        "hf://a/b@../../x",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match=r"is not a valid address\. Write 'hf://organization/name'"):
        ds.models.load(text)


def test_both_files_are_of_one_commit(tiny, remote):
    model = ds.models.load("hf://org/name@v1", token="secret")
    assert model.fingerprint == tiny.fingerprint
    assert remote.asked == [("org/name", CARD, "v1", "secret"), ("org/name", WEIGHTS, COMMIT, "secret")]


def test_a_repository_can_be_pinned(tiny, remote):
    known = ds.models.load("hf://org/name").card.sha256
    assert ds.models.load(f"hf://org/name@{OLDER}", sha256=known).fingerprint == tiny.fingerprint
    with pytest.raises(ValueError, match="not the expected model"):
        ds.models.load("hf://org/name", sha256="0" * 64)


def test_cached_weights_are_not_downloaded(remote):
    ds.models.load("hf://org/name")
    remote.asked.clear()
    ds.models.load("hf://org/name")
    assert remote.asked == [("org/name", CARD, None, None)]


def test_weights_larger_than_the_card_says_are_not_downloaded(remote):
    remote.size = 10**12
    with pytest.raises(ValueError, match=r"in hf://org/name has 1,000,000,000,000 bytes, .* It was not downloaded"):
        ds.models.load("hf://org/name")
    assert [name for _, name, _, _ in remote.asked] == [CARD]


def test_invalid_card_stops_download(remote):
    (remote.files / CARD).write_text('{"format": 2}')
    with pytest.raises(ValueError, match="Update deepspot"):
        ds.models.load("hf://org/name")
    assert [name for _, name, _, _ in remote.asked] == [CARD]


def test_altered_weights_are_refused(remote):
    (remote.files / WEIGHTS).write_bytes(b"evil")
    with pytest.raises(ValueError, match="truncated or altered"):
        ds.models.load("hf://org/name")


def test_a_copy_in_the_cache_is_used_offline(tiny, hub_cache):
    put(hub_cache, tiny, "org/name")
    assert ds.models.load("hf://org/name").fingerprint == tiny.fingerprint
    assert ds.models.load(f"hf://org/name@{COMMIT}").fingerprint == tiny.fingerprint
    with pytest.raises(ConnectionError, match=r"not in the cache, .* and pass their folder"):
        ds.models.load("hf://org/name@v2")


def test_what_is_not_in_the_cache_needs_a_network(hub_cache):
    with pytest.raises(ConnectionError, match=r"hf://org/name is not in the cache, and Hugging Face cannot be reached"):
        ds.models.load("hf://org/name")


def test_what_was_downloaded_is_available(tiny, hub_cache, monkeypatch):
    put(hub_cache, tiny, "org/name")
    put(hub_cache, tiny, "org/name", OLDER, ref=None)
    put(hub_cache, tiny, "org/tagged", ref="v1")
    (put(hub_cache, tiny, "org/half") / WEIGHTS).unlink()
    found = ds.models.available()
    found = found[found["source"] == "hub"]
    assert found.index.tolist() == ["hf://org/name", f"hf://org/name@{OLDER}", "hf://org/tagged@v1"]
    assert found.loc["hf://org/name", ["license", "encoder"]].tolist() == ["MIT", "toy"]
    assert all(ds.models.load(name).fingerprint == tiny.fingerprint for name in found.index)


def hub_error(kind):
    """An error of the hub's client, however this version of it makes them."""
    error = kind.__new__(kind)
    Exception.__init__(error, "told by the hub")
    return error


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            errors.GatedRepoError,
            PermissionError,
            r"is gated. Request access at https://huggingface.co/org/name, .*HF_TOKEN",
        ),
        (errors.RepositoryNotFoundError, FileNotFoundError, "The repository .* does not exist or is private.*HF_TOKEN"),
        (errors.RevisionNotFoundError, FileNotFoundError, "has no revision 'v1'"),
        (errors.EntryNotFoundError, FileNotFoundError, "is not a model of deepspot"),
        (errors.LocalEntryNotFoundError, ConnectionError, "cannot be reached"),
        (errors.OfflineModeIsEnabled, ConnectionError, "cannot be reached"),
        (errors.HfHubHTTPError, ConnectionError, "The request to Hugging Face .* failed"),
        (TimeoutError, ConnectionError, "TimeoutError"),
        (RuntimeError, ConnectionError, "RuntimeError"),
    ],
)
def test_errors_say_what_to_do(monkeypatch, error, expected, message):
    def fail(*_):
        raise hub_error(error)

    monkeypatch.setattr(hub, "_download", fail)
    with pytest.raises(expected, match=message) as told:
        ds.models.load("hf://org/name@v1", token="hf_secret")
    assert "org/name" in str(told.value)
    assert "hf_secret" not in str(told.value)


class Api:
    """Of the hub's client, what an upload uses."""

    private: ClassVar[bool | None] = None
    done: ClassVar[list] = []

    def __init__(self, token, library_name):
        Api.done.append(("token", token))

    def model_info(self, repo):
        if Api.private is None:
            raise hub_error(errors.RepositoryNotFoundError)
        return SimpleNamespace(private=Api.private)

    def create_repo(self, repo, *, private):
        Api.done.append(("create", repo, private))

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns):
        files = {path.name: path.read_text(errors="replace") for path in folder_path.iterdir()}
        Api.done.append(("upload", repo_id, files))
        return SimpleNamespace(oid=COMMIT)


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "done", [])
    monkeypatch.setattr(Api, "private", None)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return Api


def test_an_upload_is_one_commit_of_bundle_and_page(tiny, api, log):
    assert tiny.upload("hf://org/name", token="secret") == f"hf://org/name@{COMMIT}"
    token, create, (_, repo, files) = api.done
    assert token == ("token", "secret")
    assert create == ("create", "org/name", True)
    assert repo == "org/name"
    assert sorted(files) == ["README.md", CARD, WEIGHTS]
    assert 'ds.models.load("hf://org/name")' in files["README.md"]
    assert "license MIT" in log[-1]
    assert "secret" not in "".join(log)


@pytest.mark.parametrize(
    ("there", "private", "made"), [(None, False, [("create", "org/name", False)]), (True, True, []), (False, False, [])]
)
def test_a_repository_is_made_if_there_is_none(tiny, api, monkeypatch, there, private, made):
    monkeypatch.setattr(api, "private", there)
    tiny.upload("hf://org/name", private=private)
    assert [what for what in api.done if what[0] == "create"] == made


def test_nothing_is_published_by_accident(tiny, api, monkeypatch):
    monkeypatch.setattr(api, "private", False)
    with pytest.raises(ValueError, match=r"is public. Pass `private=False`"):
        tiny.upload("hf://org/name")
    with pytest.raises(ValueError, match="Omit it"):
        tiny.upload("hf://org/name@main")
    with pytest.raises(ValueError, match="is not a valid address"):
        tiny.upload("org/name")
    with pytest.raises(ValueError, match="not fitted"):
        ds.models.DeepSpot().upload("hf://org/name")
    assert not [what for what in api.done if what[0] == "upload"]
