"""How exactly the networks of published systems agree with their published code.

    DEEPSPOT_DATA=../shared/data python benchmarks/published_vectors.py

Runs the tests of these systems in tests/models on the inputs, parameters and outputs that were recorded with the
published code, and lists the largest difference of every comparison. Gradients of every parameter agree to 0.1 % in
their norm; a test that fails stops the script. Writes benchmarks/results/published_vectors.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
NAMES = {
    "whole_slide/test_histogene": "HisToGene",
    "whole_slide/test_hist2st": "Hist2ST",
    "whole_slide/test_thitogene": "THItoGene",
    "whole_slide/test_triplex": "TRIPLEX",
    "cells/test_deepspot2cell": "DeepSpot2Cell",
    "cells/test_deepcell": "DeepCell",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = [str(ROOT / f"tests/models/{name}.py") for name in NAMES]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "junit_family=xunit1",
            f"--junitxml={report}",
            *tests,
        ]
        subprocess.run(command, cwd=ROOT, check=True)
        cases = list(ElementTree.parse(report).iter("testcase"))
    lines = ["| system | result | largest difference | largest value |", "|---|---|---|---|"]
    for case in cases:
        name = NAMES["/".join(case.attrib["classname"].split(".")[-2:])]
        for found in case.iter("property"):
            error, _, largest = found.attrib["value"].partition("|")
            lines.append(f"| {name} | {found.attrib['name']} | {error} | {largest} |")
    if len(lines) < 20:
        raise SystemExit("The vectors were not found: set DEEPSPOT_DATA to the folder `data` next to `vectors`.")
    note = "Norms of the gradients of all parameters agree to 0.1 %, those of THItoGene to 0.4 %"
    lines += ["", f"{note}: its published ones are in single precision, and ours in double precision."]
    text = "\n".join(lines)
    (ROOT / "benchmarks" / "results" / "published_vectors.md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
