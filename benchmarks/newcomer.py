"""Run every block of README.md and docs as somebody new to the package does, and print a table of the pages.

Run it with the Python of a fresh environment in which README.md was followed, and without DEEPSPOT_DATA. Each page runs
in a process and an empty folder of its own, after the blocks of docs/examples.md if it refers to them. Blocks that
install something, or need what a fresh machine has not, are counted and not run. `newcomer.py faq nuclei` runs these
pages only; `--log FOLDER` keeps what each page prints. Tutorials on real sections download them; `--data` names a
folder that has them, on a machine that cannot. Writes benchmarks/results/newcomer.md if all pages are run.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "docs/examples.md"
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<kind>python|bash)\n(?P<code>.*?)^```", re.M | re.S
)


def pages() -> list[str]:
    """The README and the pages of the docs, in the order of the navigation."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (ROOT / "docs/index.md").read_text(), flags=re.M | re.S)
    names = ["index", *(line for tree in trees for line in tree.splitlines() if line and line[0] != ":")]
    paths = [f"docs/{name}{end}" for name in names for end in (".md", ".ipynb")]
    return ["README.md", *(path for path in paths if (ROOT / path).exists())]


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Kind, code and why it is not run here, of each block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return [("python", "".join(cell["source"]), "") for cell in cells]
    found = [(match["kind"], match["code"], match["reason"] or "") for match in BLOCK.finditer(text)]
    if page != EXAMPLES and "[data of the examples]" in text:
        found = [("preamble", code, "") for _, code, _ in blocks(EXAMPLES)] + found
    return found


def run_page(page: str, out: str, stored: str) -> None:
    """Run the blocks of a page here, as typed at the prompt of Python or of a shell."""
    names = {"__name__": "__main__"}
    rows = []
    for kind, code, reason in blocks(page):
        print(f"\n>>> {kind} {reason}\n{code}", flush=True)
        start, error = time.monotonic(), ""
        if kind == "preamble" and stored and Path(stored).exists():
            code = re.sub(r"^model = .*$", f"model = ds.models.load({stored!r})", code, flags=re.M)
        installs = kind == "bash" and "pip install" in code
        if not reason.startswith("needs") and not installs:
            try:
                if kind == "bash":
                    subprocess.run(["bash", "-ec", code], check=True)
                else:
                    exec(compile(ast.Interactive(ast.parse(code).body), page, "single"), names)
            except Exception as raised:  # noqa: BLE001 - a block may raise any error
                error = f"{type(raised).__name__}: {raised}"
                print(f"ERROR {error}", flush=True)
        if kind != "preamble" or error:
            seconds = time.monotonic() - start
            rows.append({"reason": "installation" if installs else reason, "error": error, "seconds": seconds})
        print(f"--- {time.monotonic() - start:.1f} s", flush=True)
        Path(out).write_text(json.dumps(rows))
        if kind == "preamble" and stored and not Path(stored).exists():
            names["model"].save(stored)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="names of pages, such as README or nuclei; all by default")
    parser.add_argument("--log", type=Path, help="folder for what each page prints")
    parser.add_argument(
        "--model", type=Path, help="keep the model of the examples in this folder: else each page trains it"
    )
    parser.add_argument("--data", type=Path, help="DEEPSPOT_DATA of the tutorials, in place of their downloads")
    parser.add_argument("--page", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.page:
        run_page(*args.page)
        return 0
    model = str(args.model.resolve()) if args.model else ""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    lines = ["| page | blocks | ran | needs something | failed | seconds |", "|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    errors, missing = [], []
    for page in pages():
        if (args.names and Path(page).stem not in args.names) or not blocks(page):
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            work = Path(folder) / "work"
            work.mkdir()
            log = (args.log or Path(folder)).resolve() / f"{Path(page).stem}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            # -P: the other scripts of this folder are no modules of the page.
            command = [sys.executable, "-P", __file__, "--page", page, str(out), model]
            env = os.environ | {"MPLBACKEND": "agg", "PATH": path}
            if args.data and page.endswith(".ipynb"):
                env["DEEPSPOT_DATA"] = str(args.data.resolve())
            with log.open("w") as stream:
                done = subprocess.run(command, cwd=work, env=env, stdout=stream, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                errors.append(f"{page}: the process ended with {done.returncode}")
            rows = json.loads(out.read_text()) if out.exists() else []
        failed = [row for row in rows if row["error"]]
        needs = [row for row in rows if row["reason"].startswith(("needs", "installation"))]
        seconds = sum(row["seconds"] for row in rows)
        ran = len(rows) - len(failed) - len(needs)
        lines.append(f"| {page} | {len(rows)} | {ran} | {len(needs)} | {len(failed)} | {seconds:.0f} |")
        print(lines[-1], flush=True)
        missing += [f"- {page}: {row['reason']}" for row in needs]
        errors += [f"{page}: {row['error']}" for row in failed]
    print("\n".join(errors), file=sys.stderr)
    if not args.names:
        packages = ("deepspot", "torch", "spatialdata", "scanpy", "pandas")
        about = ", ".join(f"{name} {version(name)}" for name in packages)
        about = f"{platform.system()}, Python {platform.python_version()}, {about}. `python benchmarks/newcomer.py`"
        if args.data:
            about += " `--data`: the tutorials had the sections that they download."
        text = ["What needs something, and was not run:", "", *missing, "", about, ""]
        if errors:
            text = ["Failed:", "", *(f"- {error}" for error in errors), "", *text]
        (ROOT / "benchmarks/results/newcomer.md").write_text("\n".join([*lines, "", *text]))
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
