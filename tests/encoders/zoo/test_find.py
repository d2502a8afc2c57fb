import pytest
from huggingface_hub import errors
from safetensors.torch import save_file

import deepspot as ds
from deepspot.encoders._zoo.find import find_weights, local_weights
from deepspot.encoders._zoo.specs import SPECS

UNI = SPECS["uni"]
WAYS = r"weights=\.\.\.\).*ds\.settings\.weights_dir.*once while online"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def in_cache(folder, repository, name):
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    return touch(place / "snapshots" / "abc" / name)


@pytest.fixture
def hub(monkeypatch):
    """What is asked of Hugging Face, which has nothing, refuses, or gives a file."""
    asked, answers = [], {}

    def give(repository, name, token):
        asked.append((repository, name, token))
        answer = answers.get(name, errors.EntryNotFoundError)
        if isinstance(answer, type):
            raise answer.__new__(answer, "said so")
        return answer

    monkeypatch.setattr("huggingface_hub.hf_hub_download", give)
    return asked, answers


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth", ".pt"])
def test_weights_from_a_file(tmp_path, suffix):
    path = touch(tmp_path / f"any name{suffix}")
    assert find_weights(UNI, path, None) == find_weights(UNI, str(path), None) == path


def test_folder_prefers_safetensors(tmp_path):
    touch(tmp_path / "config.json")
    other = touch(tmp_path / "checkpoint.pth")
    assert find_weights(UNI, tmp_path, None) == other
    pickled = touch(tmp_path / "pytorch_model.bin")
    assert find_weights(UNI, tmp_path, None) == pickled
    safe = touch(tmp_path / "model.safetensors")
    assert find_weights(UNI, str(tmp_path), None) == safe


def test_ambiguous_folder_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"contains no weights: neither model\.safetensors nor pytorch_model\.bin"
    ):
        find_weights(UNI, tmp_path, None)
    touch(tmp_path / "a.pth")
    touch(tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError, match="Pass the path of the file"):
        find_weights(UNI, tmp_path, None)


@pytest.mark.parametrize("path", ["nowhere", "/no/where/at/all", "weights/uni.bin"])
def test_missing_path_is_not_taken_for_a_repository(hub, path):
    with pytest.raises(FileNotFoundError, match=rf"The file or folder '{path}' does not exist\. Pass a file.*{WAYS}"):
        find_weights(UNI, path, None)
    assert hub[0] == []


@pytest.mark.parametrize("place", ["uni.safetensors", "uni.bin", "uni/pytorch_model.bin", "uni/uni.pth"])
@pytest.mark.parametrize("set_by", ["settings", "environment"])
def test_the_folder_of_weights(monkeypatch, tmp_path, hub, place, set_by):
    path = touch(tmp_path / "weights" / place)
    if set_by == "settings":
        monkeypatch.setattr(ds.settings, "weights_dir", str(tmp_path / "weights"))
    else:
        monkeypatch.setenv("DEEPSPOT_WEIGHTS", str(tmp_path / "weights"))
    assert find_weights(UNI, None, None) == path
    assert hub[0] == []
    assert local_weights(SPECS["phikon"]) is None


def test_h_optimus_bilinear_finds_weights_of_h_optimus(monkeypatch, tmp_path):
    path = touch(tmp_path / "h-optimus-0.bin")
    monkeypatch.setattr(ds.settings, "weights_dir", tmp_path)
    assert (
        find_weights(SPECS["h-optimus-0_bilinear"], None, None)
        == find_weights(SPECS["h-optimus-0"], None, None)
        == path
    )


def test_a_folder_of_weights_that_is_not_there(monkeypatch, tmp_path, hub):
    monkeypatch.setattr(ds.settings, "weights_dir", tmp_path / "typo")
    with pytest.raises(FileNotFoundError, match=r"folder of weights '.*typo' does not exist. Correct `ds\.settings"):
        find_weights(UNI, None, None)
    assert not ds.encoders.available().loc["uni", "ready"]


@pytest.mark.parametrize("repository", ["MahmoodLab/UNI", "MahmoodLab/uni"])
def test_the_cache_of_hugging_face_comes_before_the_network(tmp_path, hub, repository):
    assert not ds.encoders.available().loc["uni", "ready"]
    path = in_cache(tmp_path / "hub", repository, "pytorch_model.bin")
    assert find_weights(UNI, None, None) == path
    assert hub[0] == []
    assert ds.encoders.available().loc["uni", "ready"]


def test_download_prefers_safetensors_and_passes_token(tmp_path, hub):
    asked, answers = hub
    answers["pytorch_model.bin"] = tmp_path / "x.bin"
    assert find_weights(UNI, None, "hf_secret") == tmp_path / "x.bin"
    tried = [("MahmoodLab/UNI", name, "hf_secret") for name in ("model.safetensors", "pytorch_model.bin")]
    assert asked == tried


def test_weights_from_another_repository(tmp_path, hub):
    asked, answers = hub
    answers["model.safetensors"] = tmp_path / "x.safetensors"
    assert find_weights(UNI, "hospital/uni-copy", None) == tmp_path / "x.safetensors"
    assert asked == [("hospital/uni-copy", "model.safetensors", None)]
    kept = in_cache(tmp_path / "hub", "hospital/another", "model.safetensors")
    assert find_weights(UNI, "hospital/another", None) == kept


GATED = (
    r"'uni' are gated\. Their license is CC-BY-NC-ND-4\.0\. Request access at "
    r"https://huggingface\.co/MahmoodLab/UNI, then .*token=\.\.\.\)` or in .*HF_TOKEN"
)


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        (errors.GatedRepoError, PermissionError, GATED),
        (
            errors.RepositoryNotFoundError,
            FileNotFoundError,
            rf"no repository 'MahmoodLab/UNI', or your token has.*{WAYS}",
        ),
        (errors.LocalEntryNotFoundError, ConnectionError, rf"cannot be reached\. Pass a file.*{WAYS}"),
        (errors.HfHubHTTPError, ConnectionError, r"Downloading the weights of .uni. from .*MahmoodLab/UNI failed"),
        (TimeoutError, ConnectionError, r"failed: TimeoutError: said so"),
        (
            errors.EntryNotFoundError,
            FileNotFoundError,
            r"contains none of \['model\.safetensors', 'pytorch_model\.bin'\]",
        ),
    ],
)
def test_errors_of_hugging_face_are_translated(hub, said, error, match):
    hub[1]["model.safetensors"] = said
    with pytest.raises(error, match=match):
        ds.encoders.get("uni")


def test_offline_without_mocks():
    with pytest.raises(ConnectionError, match=rf"are not on this machine, and .*cannot be reached.*{WAYS}"):
        ds.encoders.get("uni")


def test_token_is_not_stored(monkeypatch, small, weights_of, tmp_path):
    def never(*args, **kwargs):
        raise AssertionError("nobody asked to be logged in")

    monkeypatch.setattr("huggingface_hub.login", never)
    spec = small("uni")
    tensors, _ = weights_of(spec)
    save_file(tensors, tmp_path / "uni.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, token: tmp_path / "uni.safetensors")
    assert ds.encoders.get("uni", token="hf_secret").card == spec.card
