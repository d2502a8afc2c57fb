import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepspot._core.atomic import check_outside_stores, replace_file, replace_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "old").touch()
    return tmp_path / "a.zarr"


def write(path, *, overwrite=False, error=None):
    with replace_folder(path, overwrite=overwrite) as new:
        new.mkdir()
        (new / "new").touch()
        if error is not None:
            raise error


def names(path):
    """Files in a folder, which is the only one in its own folder."""
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    return [file.name for file in path.iterdir()]


def test_a_folder_has_its_name_when_it_is_complete(tmp_path):
    with replace_folder(tmp_path / "a.zarr", overwrite=False) as new:
        new.mkdir()
        assert not (tmp_path / "a.zarr").exists()
    assert names(tmp_path / "a.zarr") == []


def write_text(path, text, *, error=None):
    with replace_file(path) as new:
        new.write_text(text)
        if error is not None:
            raise error


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "partial", error=OSError("disk full"))
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_a_folder_inside_a_store_is_refused(tmp_path):
    (tmp_path / "zarr.json").touch()
    (tmp_path / "tables").mkdir()
    for inside in ("tables/a", "new/a"):
        with pytest.raises(ValueError, match="is inside the store"):
            write(tmp_path / inside)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["tables", "zarr.json"]


def test_a_store_itself_is_refused_unless_it_is_replaced(tmp_path):
    (tmp_path / "zarr.json").touch()
    with pytest.raises(ValueError, match="is a store"):
        check_outside_stores(tmp_path)
    check_outside_stores(tmp_path, replaced=True)


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are in /proc")
def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut leaves the name with files that are empty."""
    synchronized, fsync, path = [], os.fsync, tmp_path / "parent" / "a.zarr"

    def note(handle):
        synchronized.append((Path(f"/proc/self/fd/{handle}").resolve().name, path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replace_folder(path, overwrite=False) as new:
        (new / "c").mkdir(parents=True)
        (new / "c" / "0").write_text("values")
    assert {("0", False), ("c", False), ("a.zarr", False)} == set(synchronized)


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(RuntimeError):
        write(tmp_path / "a.zarr", error=RuntimeError)
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request, monkeypatch):
    """Both ways to replace a folder: that of Linux, and that of other systems."""
    if not request.param:
        monkeypatch.setattr("deepspot._core.atomic._exchange", lambda new, path: False)
    return request.param


@pytest.mark.usefixtures("exchange")
def test_an_old_folder_is_replaced(folder):
    write(folder, overwrite=True)
    assert names(folder) == ["new"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_the_name_never_vanishes(folder, monkeypatch):
    """A process killed at any rename leaves the old or the new folder."""
    monkeypatch.setattr(Path, "rename", lambda path, target: pytest.fail("two steps"))
    write(folder, overwrite=True)
    assert names(folder) == ["new"]


KILLED = """
import os, signal, sys
from pathlib import Path
from deepspot._core.atomic import replace_folder

def replace(path, at):
    seen = 0

    def hook(event, args):
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with replace_folder(path, overwrite=True) as new:
        (new / "c").mkdir(parents=True)
        for name in ("zarr.json", "c/0"):
            (new / name).write_text("new")

at, killed = 1, True
while killed:
    path = Path(f"{at}", "a.zarr")
    (path / "c").mkdir(parents=True)
    for name in ("zarr.json", "c/0"):
        (path / name).write_text("old")
    child = os.fork()
    if child == 0:
        replace(path, at)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    at += 1
    print(*(file.read_text() for file in sorted(path.rglob("*")) if file.is_file()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_a_kill_at_any_event_leaves_the_old_or_the_new_folder(tmp_path):
    """The events are those that Python reports to audit hooks, which include all system calls of a replacement."""
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = done.stdout.splitlines()
    assert len(found) > 20
    assert found == sorted(found, reverse=True)  # first the old, then the new
    assert set(found) == {"old old", "new new"}


def test_an_old_folder_stays_if_writing_fails(folder):
    with pytest.raises(RuntimeError):
        write(folder, overwrite=True, error=RuntimeError)
    assert names(folder) == ["old"]


def test_an_old_folder_stays_if_renaming_fails(folder, monkeypatch):
    monkeypatch.setattr("deepspot._core.atomic._exchange", lambda new, path: False)
    rename = Path.rename

    def fail(path, target):
        if target == folder and not path.name.startswith("old-"):
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        write(folder, overwrite=True)
    assert names(folder) == ["old"]


def test_a_folder_that_was_created_meanwhile_stays(folder):
    with pytest.raises(FileExistsError, match=r"a\.zarr was created meanwhile.*overwrite=True"):
        write(folder)
    assert names(folder) == ["old"]
