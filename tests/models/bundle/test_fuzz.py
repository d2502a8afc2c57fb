"""A short run of `benchmarks/fuzz.py`."""

import os
import random
import subprocess

import pytest

CASES = 30


@pytest.fixture(scope="module")
def watch(fuzzing):
    return fuzzing.Watch()


@pytest.fixture(scope="module")
def tamper(fuzzing, tmp_path_factory):
    return fuzzing.Tamper(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("number", range(8))
def test_mutated_bundles_load_correctly_or_are_refused(tamper, watch, number):
    family, make = list(tamper.families().items())[number]
    outcomes = [watch.outcome(*make(random.Random(f"{family} {case}"))) for case in range(CASES)]
    assert set(outcomes) <= {"loads", "ValueError", "FileNotFoundError"}
    assert "ValueError" in outcomes


def test_all_families_are_tried(tamper):
    assert len(tamper.families()) == 8


@pytest.mark.parametrize(
    "act",
    [
        lambda path: exec("1"),
        lambda path: os.system("true"),
        lambda path: subprocess.run(["true"], check=True),
        lambda path: path.write_text("x"),
        lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)),
        lambda path: int("x"),
        lambda path: [][0],
        lambda path: (_ for _ in ()).throw(MemoryError),
    ],
)
def test_the_watch_detects_forbidden_actions(watch, tmp_path, act):
    assert watch.outcome(tmp_path / "file", act).startswith("FINDING")
