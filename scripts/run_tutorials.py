"""Run the tutorials in place, so that their outputs and figures are those of the present code.

    python -m pip install -e ".[doc,test]"
    DEEPSPOT_DATA=../shared/data python scripts/run_tutorials.py [quick_start paper_workflow …]

Each runs in a folder of its own that is thrown away. Times and versions of this machine are left out of what is kept,
and figures are reduced to 256 colors, which nobody sees and which makes the files much smaller.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


# tqdm looks for widgets, which progress bars that are off do not need; zarr announces a change at each array it writes.
QUIET = "ignore:IProgress not found,ignore:zarr v3 autosharding"


def main(names: list[str]) -> None:
    os.environ["PYTHONWARNINGS"] = QUIET
    for name in names or sorted(path.stem for path in TUTORIALS.glob("*.ipynb")):
        path = TUTORIALS / f"{name}.ipynb"
        notebook, start = nbformat.read(path, as_version=4), time.time()
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(
                notebook,
                timeout=None,
                kernel_name="python3",
                record_timing=False,
                coalesce_streams=True,
                resources={"metadata": {"path": folder}},
            ).execute()
        normalize(notebook)
        nbformat.write(notebook, path)
        print(f"{name}: {time.time() - start:.0f} s, {path.stat().st_size / 1e6:.2f} MB")


def normalize(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs between machines, and shrink the figures."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = shrink(data["image/png"])


def shrink(png: str) -> str:
    out = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
