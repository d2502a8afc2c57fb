from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from deepspot.datasets._hest.files import REPO, SOURCE
from deepspot.datasets._shared import hub
from deepspot.datasets._shared.hub import fetch


def fails(kind):
    response = SimpleNamespace(headers={}, request=None)
    try:
        return kind("refused", response=response)
    except TypeError:
        return kind("refused")


@pytest.fixture
def ask(nothing_here, monkeypatch):
    def ask(outcome, path="st/X.h5ad", token="hf_secret"):
        def download(repo, path, folder, token):
            if isinstance(outcome, Exception):
                raise outcome
            asked.append((repo, path, folder, token))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(outcome)
            return folder / path

        monkeypatch.setattr(hub, "download", download)
        return fetch(SOURCE, REPO, path, token=token, where="Sample 'X' is not here", hint="Copy it.")

    asked = ask.asked = []
    return ask


def test_downloads_once(ask, nothing_here, log):
    path = ask(b"content")
    assert path.read_bytes() == b"content"
    assert ask(b"other") == path
    assert ask.asked == [("MahmoodLab/hest", "st/X.h5ad", nothing_here / "hest", "hf_secret")]
    assert len(log) == 1
    assert "CC BY-NC-SA 4.0" in log[0]


@pytest.mark.parametrize("kind", [errors.GatedRepoError, errors.RepositoryNotFoundError])
def test_gated(ask, kind):
    with pytest.raises(PermissionError, match=r"accept the terms .* `token=` or .* HF_TOKEN") as caught:
        ask(fails(kind))
    assert "https://huggingface.co/datasets/MahmoodLab/hest" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (fails(errors.LocalEntryNotFoundError), "no connection"),
        (errors.OfflineModeIsEnabled("off"), "no connection"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("client"), "RuntimeError: client"),
    ],
)
def test_offline(ask, error, said):
    message = rf"'X' is not here, and could not be downloaded \({said}\)\. Copy it\."
    with pytest.raises(ConnectionError, match=message) as caught:
        ask(error)
    assert caught.value.__cause__ is error


def test_a_full_disk_is_no_failed_connection(ask):
    with pytest.raises(OSError, match="No space left") as caught:
        ask(OSError(28, "No space left on device"))
    assert not isinstance(caught.value, ConnectionError)


def test_no_such_file(ask):
    assert ask(fails(errors.RemoteEntryNotFoundError)) is None


def test_the_client_is_asked_for_one_file(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path / "x"))
    assert hub.download("org/name", "st/X.h5ad", tmp_path, None) == tmp_path / "x"
    assert asked == [(("org/name", "st/X.h5ad"), {"repo_type": "dataset", "local_dir": tmp_path, "token": None})]
