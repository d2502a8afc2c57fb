import pandas as pd
import pytest

from deepspot.cohort._run import run_table
from deepspot.cohort._run.folder import Folder
from deepspot.cohort._run.run_table import Progress, RunTable, _duration, read_runs
from deepspot.cohort._run.slide import SlideResult


def test_time_left_is_weighted_by_size():
    # A small slide of 10 MB took a minute; one of 100 MB and one of 20 MB are left.
    with Progress({"a": 10, "b": 100, "c": 20}, 5, 2, lambda: 1) as progress:
        progress.update(SlideResult("a", 60.0, spots=1, ood_share=0.0))
        assert progress.time_left() == "12 min"
        progress.workers = lambda: 2
        assert progress.time_left() == "6 min"
        progress.workers = lambda: 40  # never more than slides
        assert progress.time_left() == "6 min"


def test_failed_slides_do_not_count_for_the_time_left():
    with Progress({"a": 10, "b": 100, "c": 10}, 3, 0, lambda: 1) as progress:
        progress.update(SlideResult("b", 0.1, error="ValueError: broken"))
        assert progress.time_left() == ""
        progress.update(SlideResult("a", 300.0, spots=1, ood_share=0.0))
        assert progress.time_left() == "5 min"


def test_lines_in_a_log(log):
    with Progress({"a": 10, "b": 20, "c": 350}, 40, 10, lambda: 1) as progress:
        progress.update(SlideResult("b", 1.0, error="broken"))
        progress.update(SlideResult("a", 60.0, spots=1, ood_share=0.0))
        progress.update(SlideResult("c", 600.0, spots=1, ood_share=0.0))
    assert log == ["11/40 slides, 1 failed", "12/40 slides, 1 failed, about 35 min left", "13/40 slides, 1 failed"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3, "a minute"),
        (80, "a minute"),
        (100, "2 min"),
        (5400, "90 min"),
        (9000, "2 h"),
        (36000, "10 h"),
        (400_000, "5 days"),
    ],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_the_run_table_of_many_small_slides_is_not_written_after_each(tmp_path, monkeypatch):
    """Writing 1,000 rows takes as long as ten slides on this clock: a twentieth of the time is each 200 slides."""
    now, written = [0.0], []
    real = RunTable.write

    def write(self):
        now[0] += 10
        written.append(int((self.frame["status"] == "done").sum()))
        real(self)

    monkeypatch.setattr(run_table.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(RunTable, "write", write)
    folder = Folder(tmp_path)
    folder.work.mkdir()
    names = pd.Index([f"s{i}" for i in range(1_000)], name="slide")
    table = RunTable(folder, pd.DataFrame({"path": "p", "patient": "P"}, index=names), [])
    for name in names:
        now[0] += 1
        table.put(SlideResult(name, 1.0, spots=3, ood_share=0.0))
        table.save()
    assert written == [1, 201, 401, 601, 801]
    assert (read_runs(tmp_path)["status"] == "done").sum() == 801
    table.save(now=True)
    assert (read_runs(tmp_path)["status"] == "done").all()


def test_the_run_table_is_written_after_each_slide_that_takes_long(tmp_path, monkeypatch):
    now, written = [0.0], []

    def write(self):
        now[0] += 10
        written.append(int((self.frame["status"] == "done").sum()))

    monkeypatch.setattr(run_table.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(RunTable, "write", write)
    table = RunTable(Folder(tmp_path), pd.DataFrame({"path": "p", "patient": "P"}, index=["a", "b", "c"]), [])
    for name in "abc":
        now[0] += 201
        table.put(SlideResult(name, 1.0, spots=3, ood_share=0.0))
        table.save()
    assert written == [1, 2, 3]
