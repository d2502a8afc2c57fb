"""Checkpoints of the paper's authors: the one whose outputs are known, and thousands of damaged ones.

    DEEPSPOT_DATA=../shared/data python benchmarks/legacy.py --cases 10000

Damaged are the bytes of the checkpoint, those of the pickle inside it (with the checksums of the zip put right again,
so that the pickle is read at all), and the two files beside it. A case may convert, or be refused with an error that
names the file. Anything else is a finding: more than a minute (which ends the run), more than 4 GB of memory, or an
action that Python's audit hooks report (a process, an import, a pickle that is executed, a file written, the network).
Writes benchmarks/results/fuzz_legacy.md.
"""

from __future__ import annotations

import argparse
import codecs
import collections
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

import deepspot as ds

SECONDS, BYTES = 60, 4 * 2**30
MODEL, OTHERS = "final_model.pkl", ("top_param_overall.yaml", "info_highly_variable_genes.csv")
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.", "socket.", "exec", "import")


def difference(folder: Path) -> float:
    """Largest difference between expression as the model predicts it and as it is known to be."""
    known = np.load(folder / "expected.npz")
    n, k, dim = known["neighbors"].shape
    spot = np.concatenate([known["spot"][:, 0], known["neighbors"].reshape(n * k, dim)])
    subspots = np.concatenate([known["subspots"], np.zeros((n * k, 9, dim), np.float32)])
    near = csr_matrix((np.ones(n * k, bool), (np.repeat(np.arange(n), k), n + np.arange(n * k))), (len(spot),) * 2)
    predicted = ds.models.convert_legacy(folder).predict(ds.models.Bags(spot, subspots, near))[:n]
    return float(np.abs(predicted - known["expression"]).max())


def damage(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost or added; now and then all after a point lost."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at, kind = rng.randrange(len(changed) + 1), rng.random()
        some = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        if kind < 0.6:
            changed[at : at + 1] = some[:1]
        elif kind < 0.8:
            changed[at:at] = some
        elif kind < 0.97:
            del changed[at : at + len(some)]
        else:
            del changed[at:]
    return bytes(changed)


class Family:
    """A way to damage a checkpoint, of which the whole files are kept."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.whole = {name: (folder / name).read_bytes() for name in (MODEL, *OTHERS)}
        with zipfile.ZipFile(folder / MODEL) as file:
            self.entries = {name: file.read(name) for name in file.namelist()}
        self.work = work

    def restore(self) -> None:
        for name, data in self.whole.items():
            (self.work / name).write_bytes(data)

    def file(self, rng: random.Random) -> None:
        (self.work / MODEL).write_bytes(damage(self.whole[MODEL], rng))

    def pickle(self, rng: random.Random) -> None:
        with zipfile.ZipFile(self.work / MODEL, "w") as file:
            for name, data in self.entries.items():
                file.writestr(name, damage(data, rng) if name.endswith("data.pkl") else data)

    def beside(self, rng: random.Random) -> None:
        name = rng.choice(OTHERS)
        (self.work / name).write_bytes(damage(self.whole[name], rng))


def outcome(work: Path) -> str:
    """What comes of a damaged checkpoint."""
    signal.alarm(SECONDS)
    try:
        ds.models.convert_legacy(work, tile_um=55)
    except (ValueError, FileNotFoundError) as error:
        return "refused" if str(work) in str(error) else f"FINDING: {error!r}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
        return f"FINDING: {error!r}"
    finally:
        signal.alarm(0)
    return "converted"


def fuzz(folder: Path, cases: int, seed: int) -> tuple[collections.Counter[tuple[str, str]], set[str]]:
    """Count outcomes by family, and gather what was done that must not be."""
    done: set[str] = set()
    rng = random.Random(seed)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        family = Family(folder, Path(scratch))
        family.restore()
        outcome(family.work)  # all imports that a conversion needs are made here
        for codec in ("raw_unicode_escape", "unicode_escape"):  # text in instructions of older pickles is in these
            codecs.lookup(codec)
        for name in OTHERS:
            (family.work / name).write_bytes(b"\xff")
            outcome(family.work)
            family.restore()
        watching = True

        def watch(event: str, args: tuple[object, ...]) -> None:
            writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
            if watching and (event.startswith(FORBIDDEN) or writes):
                done.add(f"{event} {args[0]!r:.80}")

        sys.addaudithook(watch)
        for _ in range(cases):
            kind = rng.choice(["file", "pickle", "pickle", "beside"])
            watching = False
            getattr(family, kind)(rng)
            watching = True
            counts[kind, outcome(family.work)] += 1
            watching = False
            family.restore()
    return counts, done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("deepspot").setLevel(logging.CRITICAL)
    warnings.simplefilter("error")
    folder = Path(os.environ["DEEPSPOT_DATA"]).resolve().parent / "vectors" / "legacy_checkpoint"
    far = difference(folder)
    resource.setrlimit(resource.RLIMIT_AS, (_now() + BYTES, resource.RLIM_INFINITY))
    counts, done = fuzz(folder, arguments.cases, arguments.seed)
    rows = {"file": "the checkpoint", "pickle": "the pickle inside it", "beside": "the two files beside it"}
    table = ["| damaged | cases | converted | refused | anything else |", "|---|---|---|---|---|"]
    for kind, words in rows.items():
        of = {what: count for (where, what), count in counts.items() if where == kind}
        total, fine = sum(of.values()), of.get("converted", 0) + of.get("refused", 0)
        table.append(
            f"| {words} | {total:,} | {of.get('converted', 0):,} | {of.get('refused', 0):,} | {total - fine:,} |"
        )
    table += [
        "",
        f"Actions that must not be: {len(done)}. Largest difference from the known outputs: {far:.1e}. Seed "
        f"{arguments.seed}, at most {SECONDS} s and {BYTES / 2**30:g} GB more memory per case.",
    ]
    text = "\n".join(table) + "\n"
    (Path(__file__).parent / "results" / "fuzz_legacy.md").write_text(text)
    findings = [*sorted(done), *(what for _, what in counts if what.startswith("FINDING"))]
    print(text, *findings, sep="\n")
    sys.exit(bool(findings))


def _now() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
