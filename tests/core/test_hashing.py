import subprocess
import sys

import numpy as np
import pytest

from deepspot._core import hashing
from deepspot._core.hashing import digest, hash_file, source_of


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(hashing, "PIECE", 10)
    monkeypatch.setattr(hashing, "PIECES", 5)


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
def test_small_files_are_hashed_completely(small_pieces, write, size):
    content = CONTENT[:size]
    same = hash_file(write(content))
    assert len(same) == 16
    assert hash_file(write(content)) == same
    assert all(hash_file(write(changed(content, at))) != same for at in range(size))
    assert hash_file(write(content + b"\0")) != same


def test_large_files_are_hashed_in_pieces(small_pieces, write):
    same = hash_file(write(CONTENT))
    pieces = [start + at for start in (0, 247, 495, 742, 990) for at in range(10)]
    assert all(hash_file(write(changed(CONTENT, at))) != same for at in pieces)
    assert all(hash_file(write(changed(CONTENT, at))) == same for at in (10, 246, 500 + 10, 989))
    assert hash_file(write(CONTENT[:-1])) != same


def test_hash_of_a_huge_file_takes_constant_time(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert len(hash_file(path)) == 16


def test_digest_tells_values_types_and_shapes_apart():
    zeros = np.zeros((2, 3))
    parts = [zeros, zeros.T, zeros.astype(np.float32), zeros + 1, "0", 0, ["0"], [[0]], None]
    assert len({digest(part) for part in parts}) == len(parts)
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc")}) == 3
    assert digest(zeros) == digest(np.asfortranarray(zeros))


def test_code_that_was_made_from_a_string_has_no_source():
    """In a process of `python -c`, where Python 3.13 would return the text of the command."""
    command = """
from deepspot._core.hashing import source_of
made = {}
exec("def double(x):\\n    return 2 * x", made)
try:
    source_of(made["double"])
except OSError:
    print("none")
"""
    shown = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "none"
    assert source_of(test_code_that_was_made_from_a_string_has_no_source).startswith("def test_code")
