import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from deepspot.encoders._zoo.weights import read


class Bomb:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def saved(path, held=TENSORS, **options):
    save_file(held, path) if path.suffix == ".safetensors" else torch.save(held, path, **options)
    return path


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pth", "x.pt"])
def test_all_formats_give_the_same_tensors(tmp_path, name):
    found = read(saved(tmp_path / name))
    assert set(found) == set(TENSORS)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert torch.equal(found["a.weight"], TENSORS["a.weight"])


def test_old_torch_files_are_read(tmp_path):
    path = saved(tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert torch.equal(read(path)["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("inside", [lambda bomb: bomb, lambda bomb: {"a.weight": bomb}])
def test_code_in_a_pickle_is_not_run(tmp_path, new, inside):
    target = tmp_path / "executed"
    path = saved(tmp_path / "x.bin", inside(Bomb(target)), _use_new_zipfile_serialization=new)
    with pytest.raises(
        ValueError, match=r"x\.bin contains more than tensors \([\w.]+\), or .*nothing in it was executed"
    ):
        read(path)
    assert not target.exists()


def test_pickled_module_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing in it was executed"):
        read(saved(tmp_path / "x.bin", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_truncated_files(tmp_path, name, kept):
    path = saved(tmp_path / name, {"a": torch.ones(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"x\.\w+ (is no whole|cannot be read|contains more than).*Get a "):
        read(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=rf"{name} "):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"state_dict": TENSORS, "epoch": 3}, "contains more than tensors by name: 'state_dict', 'epoch'"),
        ([TENSORS["a.bias"]], "contains no tensors by name, but a list"),
        ({}, "contains no tensors by name, but nothing"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "not plain arrays: a"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "not plain arrays: a"),
        ({"a": torch.zeros(2, device="meta")}, "not plain arrays: a"),
        ({"a": torch.zeros(1).expand(2**40)}, "not plain arrays: a"),
    ],
)
def test_only_tensors_by_name(tmp_path, held, said):
    with pytest.raises(ValueError, match=said):
        read(saved(tmp_path / "x.bin", held))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x.bin")


def test_corrupted_archive_is_refused(tmp_path):
    path = saved(tmp_path / "x.bin", {"a": torch.full((1000,), 33.0)})
    whole = path.read_bytes()
    at = whole.index(torch.full((4,), 33.0).numpy().tobytes())
    path.write_bytes(whole[: at + 2] + b"\xff" + whole[at + 3 :])
    with pytest.raises(ValueError, match="damaged"):
        read(path)
