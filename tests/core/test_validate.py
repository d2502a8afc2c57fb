import numpy as np
import pytest

import deepspot as ds
from deepspot._core.keys import key_in, one_key
from deepspot._core.validate import check_path, check_positive, check_same_length


def test_key_in():
    assert key_in("a", {"a": 1, "b": 2}, "sdata.images") == "a"
    with pytest.raises(KeyError, match=r"Key `'x'` not found in `sdata.images`. Available keys: \['a', 'b'\]."):
        key_in("x", {"a": 1, "b": 2}, "sdata.images")


def test_one_key():
    assert one_key(None, ["only"], "sdata.images", "image_key") == "only"
    assert one_key("b", ["a", "b"], "sdata.images", "image_key") == "b"
    with pytest.raises(
        ValueError, match=r"`sdata.images` holds several candidates: \['a', 'b'\]. Choose one with `image"
    ):
        one_key(None, ["a", "b"], "sdata.images", "image_key")
    with pytest.raises(KeyError, match=r"`sdata.images` holds no suitable element, so `image_key` cannot be chosen"):
        one_key(None, [], "sdata.images", "image_key")
    with pytest.raises(KeyError, match="Key `'x'` not found"):
        one_key("x", ["only"], "sdata.images", "image_key")


@pytest.mark.parametrize("value", [1, 0.5, np.float64(0.5), np.float32(0.5), np.int64(3)])
def test_check_positive_accepts_all_kinds_of_numbers(value):
    assert check_positive(value, "mpp") == value


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), np.float32(0)])
def test_check_positive_refuses_values(value):
    with pytest.raises(ValueError, match="`mpp` must be above 0"):
        check_positive(value, "mpp")


@pytest.mark.parametrize("value", [True, "1", None, [1.0]])
def test_check_positive_refuses_types(value):
    with pytest.raises(TypeError, match=f"`mpp` must be a number, got {type(value).__name__}"):
        check_positive(value, "mpp")


def test_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_path("~/a", "path") == tmp_path / "a"
    with pytest.raises(ValueError, match=r"`path` is no path: .* contains a null character"):
        check_path("a\0b", "path")
    with pytest.raises(ValueError, match="`path` is in the home folder of an unknown user: '~nobody-of-this-name/a'"):
        check_path("~nobody-of-this-name/a", "path")
    with pytest.raises(TypeError, match="`path` must be a path, got int"):
        check_path(5, "path")


@pytest.mark.parametrize("path", ["a\0b.tif", "~nobody-of-this-name/a.tif"])
def test_functions_check_paths(path):
    for call in (ds.io.slide, ds.io.visium, ds.models.load, ds.cohort.run):
        with pytest.raises(ds.errors.InputError, match=r"null character|unknown user"):
            call(path)


def test_check_same_length():
    check_same_length([1, 2], "ab", "X and y")
    with pytest.raises(ValueError, match="X and y must have the same number of rows, got 2 and 3"):
        check_same_length([1, 2], "abc", "X and y")
