import pytest

from deepspot.cohort._run.run_table import Progress, _duration
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
