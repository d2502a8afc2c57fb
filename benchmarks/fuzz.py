"""What becomes of bundles that were tampered with: none may crash, hang, fill the memory or run anything.

    python benchmarks/fuzz.py

Thousands of mutated folders, half of them with their hashes brought up to date, so that the checks behind the
checksum are reached. Each is loaded and predicted with in this process, under a limit of time and memory, and an audit
hook that notes imports, compiled or executed code, processes, sockets, unpickling, and files opened for writing. There
are two right ends: a sound model (its checksum intact, its predictions finite), or ValueError or FileNotFoundError that
names the file. Writes benchmarks/results/fuzz.md.
"""

from __future__ import annotations

import faulthandler
import logging
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from fuzzing import SECONDS, Family, Tamper, Watch

CASES, SEED, MEMORY = 2_000, 0, 10**9
OUT = Path(__file__).parent / "results" / "fuzz.md"
HEADER = "| family | cases | loads, sound | ValueError | FileNotFoundError | anything else | slowest, ms |"


def families(scratch: Path) -> dict[str, Family]:
    """What is fuzzed: functions that make a case from random numbers, and say how it is loaded."""
    return Tamper(scratch).families()


def main() -> None:
    faulthandler.enable()
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        every = families(Path(scratch))
        watch = Watch()
        limit_memory()
        rows, findings = [], 0
        for name, make in every.items():
            counts, slowest = run(name, make, watch)
            wrong = sum(count for told, count in counts.items() if told.startswith("FINDING"))
            findings += wrong
            cells = [counts["loads"], counts["ValueError"], counts["FileNotFoundError"], wrong, round(1000 * slowest)]
            rows.append(f"| {name} | {' | '.join(f'{cell:,}' for cell in [CASES, *cells])} |")
            print(rows[-1], flush=True)
    total = f"{CASES * len(rows):,} cases, {findings} that ended otherwise."
    told = f"Seed {SEED}. At most {SECONDS:g} s and {MEMORY / 1e9:g} GB more memory per case. {total}"
    OUT.write_text("\n".join([HEADER, "|---" * 7 + "|", *rows, "", told]) + "\n")
    print(told)
    sys.exit(findings > 0)


def run(name: str, make: Family, watch: Watch) -> tuple[Counter[str], float]:
    """Outcomes of a family, and the longest time of a case."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    for number in range(CASES):
        path, load = make(random.Random(f"{SEED} {name} {number}"))
        faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # what no signal can stop
        start = time.perf_counter()
        told = watch.outcome(path, load)
        slowest = max(slowest, time.perf_counter() - start)
        faulthandler.cancel_dump_traceback_later()
        if told.startswith("FINDING") and counts[told[:40]] < 3:
            print(f"{name}, case {number}: {told[:500]}", flush=True)
        counts[told if not told.startswith("FINDING") else told[:40]] += 1
    return counts, slowest


def limit_memory() -> None:
    """Allow no more address space than is taken now, and `MEMORY`."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
