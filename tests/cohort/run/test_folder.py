from contextlib import suppress

import pytest

from deepspot.cohort._run.folder import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "out")


def test_two_processes_cannot_use_one_folder(folder):
    with folder.claim(), pytest.raises(ValueError, match="Another process uses"), Folder(folder.path).claim():
        pass
    with folder.claim():  # free again
        pass


def test_other_folders_are_not_changed(folder):
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not the folder of a cohort"), folder.claim():
        pass
    assert [path.name for path in folder.path.iterdir()] == ["thesis.txt"]


def test_out_is_inside_a_store(tmp_path):
    (tmp_path / "slide.zarr" / "tables").mkdir(parents=True)
    (tmp_path / "slide.zarr" / "zarr.json").touch()
    inside = tmp_path / "slide.zarr" / "tables" / "out"
    with pytest.raises(ValueError, match=r"inside the store '.*slide\.zarr'"), Folder(inside).claim():
        pass
    assert not inside.exists()


def test_out_is_a_file(folder):
    folder.path.write_text("")
    with pytest.raises(ValueError, match="is a file"), folder.claim():
        pass


def test_leftovers_are_deleted_and_kills_are_counted(folder):
    with folder.claim():
        (folder.work / "a-xyz" / "slide.zarr").mkdir(parents=True)
        (folder.work / "b.started").write_bytes(b"xx")
        (folder.work / "draft.csv").touch()
    with folder.claim():
        assert [path.name for path in folder.work.iterdir()] == ["b.started"]
        assert folder.n_kills() == {"b": 2}
        folder.forget("b")
        assert folder.n_kills() == {}


def test_attempt_leaves_nothing(folder):
    with folder.claim():
        with suppress(OSError), folder.attempt("a") as attempt:
            (attempt / "half").touch()
            assert folder.n_kills() == {"a": 1}
            raise OSError("full")
        assert list(folder.work.iterdir()) == []


def test_traces_of_a_killed_worker_are_deleted(folder):
    with folder.claim():
        (folder.work / "a" / "xyz" / "slide.zarr").mkdir(parents=True)
        (folder.work / "a-b" / "xyz").mkdir(parents=True)
        (folder.work / "a.started").write_bytes(b"x")
        folder.forget("a")
        assert [path.name for path in folder.work.iterdir()] == ["a-b"]


def test_two_attempts_at_one_slide_do_not_interfere(folder):
    """A worker that was presumed dead, and the worker that repeats its slide."""
    with folder.claim():
        with folder.attempt("a") as first:
            with suppress(OSError), folder.attempt("a") as second:
                (second / "half").touch()
                raise OSError("lost")
            assert [path.name for path in (folder.work / "a").iterdir()] == [first.name]
            assert folder.n_kills() == {"a": 2}
            (first / "slide.zarr").mkdir()
            folder.place(first, first / "slide.zarr", "a")
        assert folder.slide("a").exists()
        assert list(folder.work.iterdir()) == []


def test_a_result_is_atomic_and_replaces_an_earlier_one(folder):
    with folder.claim():
        for text in ("first", "second"):
            with folder.attempt("a") as attempt:
                (attempt / "slide.zarr").mkdir()
                (attempt / "slide.zarr" / "data").write_text(text)
                folder.place(attempt, attempt / "slide.zarr", "a")
            assert (folder.slide("a") / "data").read_text() == text
        assert list(folder.work.iterdir()) == []


def test_an_attempt_deleted_by_a_later_start_cannot_finish(folder):
    """A worker that outlives its caller still writes to the deleted folder."""
    with folder.claim():
        orphan = folder.attempt("a")
        attempt = orphan.__enter__()
    with folder.claim():
        (attempt / "slide.zarr").mkdir(parents=True)  # as zarr does for each array
        with pytest.raises(FileNotFoundError, match="deleted by a later start"):
            folder.place(attempt, attempt / "slide.zarr", "a")
        assert not folder.slide("a").exists()
        orphan.__exit__(None, None, None)


def test_a_file_is_replaced_only_without_an_error(folder):
    with folder.claim():
        folder.runs.write_text("old")
        with suppress(OSError), folder.writing(folder.runs) as draft:
            draft.write_text("ne")
            raise OSError("full")
        assert folder.runs.read_text() == "old"
        with folder.writing(folder.runs) as draft:
            draft.write_text("new")
        assert folder.runs.read_text() == "new"
        assert list(folder.work.iterdir()) == []
