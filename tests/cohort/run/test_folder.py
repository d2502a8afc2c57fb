from contextlib import suppress

import pytest

from deepspot.cohort._run.folder import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "out")


def test_two_cannot_work_in_one_folder(folder):
    with folder.claim(), pytest.raises(ValueError, match="Another process uses"), Folder(folder.path).claim():
        pass
    with folder.claim():  # free again
        pass


def test_folder_of_something_else_is_left_alone(folder):
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not the folder of a cohort"), folder.claim():
        pass
    assert [path.name for path in folder.path.iterdir()] == ["thesis.txt"]


def test_file_in_the_way(folder):
    folder.path.write_text("")
    with pytest.raises(ValueError, match="is a file"), folder.claim():
        pass


def test_leftovers_go_and_deaths_are_remembered(folder):
    with folder.claim():
        (folder.work / "a-xyz" / "slide.zarr").mkdir(parents=True)
        (folder.work / "b.started").write_bytes(b"xx")
        (folder.work / "draft.csv").touch()
        (folder.path / ".model-abc").mkdir()
    with folder.claim():
        assert [path.name for path in folder.work.iterdir()] == ["b.started"]
        assert folder.n_kills() == {"b": 2}
        assert not (folder.path / ".model-abc").exists()
        folder.forget("b")
        assert folder.n_kills() == {}


def test_attempt_leaves_nothing(folder):
    with folder.claim():
        with suppress(OSError), folder.attempt("a") as attempt:
            (attempt / "half").touch()
            assert folder.n_kills() == {"a": 1}
            raise OSError("full")
        assert list(folder.work.iterdir()) == []


def test_nothing_is_left_of_a_worker_that_was_killed(folder):
    with folder.claim():
        (folder.work / "a" / "xyz" / "slide.zarr").mkdir(parents=True)
        (folder.work / "a-b" / "xyz").mkdir(parents=True)
        (folder.work / "a.started").write_bytes(b"x")
        folder.forget("a")
        assert [path.name for path in folder.work.iterdir()] == ["a-b"]


def test_two_attempts_at_one_slide_leave_each_other_alone(folder):
    """A worker that was taken for dead, and the one that got its slide."""
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


def test_result_appears_at_once_and_replaces_a_former_one(folder):
    with folder.claim():
        for text in ("first", "second"):
            with folder.attempt("a") as attempt:
                (attempt / "slide.zarr").mkdir()
                (attempt / "slide.zarr" / "data").write_text(text)
                folder.place(attempt, attempt / "slide.zarr", "a")
            assert (folder.slide("a") / "data").read_text() == text
        assert list(folder.work.iterdir()) == []


def test_who_was_given_up_cannot_finish(folder):
    """A worker that outlives its caller writes on into a folder that the next start has thrown away."""
    with folder.claim():
        orphan = folder.attempt("a")
        attempt = orphan.__enter__()
    with folder.claim():
        (attempt / "slide.zarr").mkdir(parents=True)  # as zarr does for each array
        with pytest.raises(FileNotFoundError, match="deleted by a later start"):
            folder.place(attempt, attempt / "slide.zarr", "a")
        assert not folder.slide("a").exists()
        orphan.__exit__(None, None, None)


def test_file_is_replaced_only_when_all_went_well(folder):
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
