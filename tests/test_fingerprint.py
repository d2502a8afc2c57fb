import numpy as np
import pytest

from deepspot import _fingerprint
from deepspot._fingerprint import of_file


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(_fingerprint, "PIECE", 10)
    monkeypatch.setattr(_fingerprint, "PIECES", 5)


@pytest.fixture
def write(tmp_path):
    def write(content):
        (tmp_path / "file").write_bytes(content)
        return tmp_path / "file"

    return write


def changed(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


CONTENT = np.random.default_rng(0).bytes(1000)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 50])
def test_every_byte_of_a_small_file_counts(small_pieces, write, size):
    content = CONTENT[:size]
    same = of_file(write(content))
    assert len(same) == 16
    assert of_file(write(content)) == same
    assert all(of_file(write(changed(content, at))) != same for at in range(size))
    assert of_file(write(content + b"\0")) != same


def test_a_large_file_is_read_in_pieces(small_pieces, write):
    same = of_file(write(CONTENT))
    pieces = [start + at for start in (0, 247, 495, 742, 990) for at in range(10)]
    assert all(of_file(write(changed(CONTENT, at))) != same for at in pieces)
    assert all(of_file(write(changed(CONTENT, at))) == same for at in (10, 246, 500 + 10, 989))
    assert of_file(write(CONTENT[:-1])) != same


def test_a_file_of_many_gigabytes_takes_no_longer(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert len(of_file(path)) == 16
