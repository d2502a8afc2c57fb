"""Pages in a browser: the checks are in viewer/tests, in JavaScript, and each is a test here."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import geopandas as gpd
import matplotlib as mpl
import numpy as np
import pytest
import shapely
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._view import pyramid
from deepspot._view.view import ASSETS
from deepspot.pl._map.panel import GENE_SPAN, limits
from deepspot.pl._map.tiles import cut_tiles
from deepspot.pl._map.values import measured_values

VIEWER = Path(__file__).parents[2] / "viewer"
TESTS = VIEWER / "tests" / "viewer.test.mjs"
NAMES = (
    re.findall(r"^ *test\([`\"](.*?)[`\"],", TESTS.read_text(encoding="utf-8"), flags=re.M) if TESTS.exists() else []
)
NAMES = [
    name.replace("${painter}", painter) for name in NAMES for painter in (["2d", "webgl"] if "${" in name else [""])
]
BESIDE = "tiles beside #1 50%"
"""Name of a page with a folder: these characters have another meaning in an address."""
CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium")) or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def node():
    if not VIEWER.is_dir():
        pytest.skip("needs the folder viewer/ of the repository")
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    if not (VIEWER / "node_modules").is_dir():
        pytest.skip("needs the packages of viewer/: run `npm ci` there")
    return "node"


def colors(values, places):
    low, high = limits(values, GENE_SPAN)
    rgba = mpl.colormaps["viridis"](np.clip((values - low) / (high - low), 0, 1), bytes=True)
    return {int(place): rgba[place, :3].tolist() for place in places}


def add_cells(sdata, add_table):
    """1,500 triangles that point upward, at a distance of 20 px."""
    row, column = np.divmod(np.arange(1500), 50)
    centers = np.column_stack([column, row]) * 20.0 + 30
    corners = centers[:, None] + 9 * np.array([[0, -1], [1, 0.8], [-1, 0.8]])
    spots = get_transformation(sdata.shapes["spots"], get_all=True)
    outlines = gpd.GeoDataFrame(geometry=shapely.polygons(corners))
    sdata.shapes["cells"] = ShapesModel.parse(outlines, transformations=spots)
    values = np.linspace(0, 2, 1500)
    add_table(sdata, values[:, None], ["UP"], "deepspot_cells", shapes_key="cells")
    sdata.tables["deepspot_cells"].obs["ood"] = np.arange(1500) >= 750
    return values


@pytest.fixture(scope="module")
def pages(toy, add_results, add_table, tmp_path_factory):
    """Folder with pages, and what they must show in truth.json."""
    from spatialdata import deepcopy

    folder = tmp_path_factory.mktemp("pages")
    slide = deepcopy(toy["P1_S1"])
    ds.view(slide, folder / "measured.html", genes=2)
    add_results(slide)
    ds.view(slide, folder / "spots.html", title="<i>title</i> & more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "TILE", 128)
        ds.view(slide, folder / f"{BESIDE}.html", genes=2, max_mb=0.75)
    (folder / "alone").mkdir()
    shutil.copy(folder / f"{BESIDE}.html", folder / "alone")
    table = slide.tables["deepspot_spots"]
    values = table[:, "UP"].X.ravel()
    measured = measured_values(slide, "spots", "table", ["UP"])[:, 0]
    tissue = cut_tiles(slide, "P1_S1_image", "spots", [0, 12, 29], 55).mean(axis=(1, 2))
    clicked = 22
    card = {"UP measured": measured[clicked], "UP predicted": values[clicked]}
    card = {name: f"{value:.2f}" for name, value in card.items()}
    card |= {"Expected r of UP": "0.61 (0.50 to 0.70)", "Annotation": table.obs["annotation"].cat.categories[1]}
    card["Out-of-distribution score"] = f"{table.obs['ood_score'].iloc[clicked]:.2f}"
    truth = {
        "colors": colors(values, [0, 12, 20, 29]),
        "missing": 4,
        "ood": 28,
        "sure": 3,
        "tissue": dict(zip([0, 12, 29], tissue.tolist(), strict=True)),
        "clicked": clicked,
        "name": str(slide.shapes["spots"].index[clicked]),
        "card": card,
        "evil": table.var_names[2],
        "label": table.obs["annotation"].cat.categories[1],
        "title": "<i>title</i> & more",
        "beside": BESIDE,
    }
    cells = add_cells(slide, add_table)
    ds.view(slide, folder / "cells.html", shapes_key="cells")
    truth["cell_colors"] = colors(cells, [0, 700, 1499])
    truth["cell_in_doubt"] = 1120  # and all of its neighbors
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(node, tmp_path_factory, request):
    """Outcome and report of every test by its name."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium, or its path in CHROMIUM")
    folder = request.getfixturevalue("pages")
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", "--test-concurrency=1", str(TESTS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=VIEWER,
        env=os.environ | {"PAGES": str(folder), "CHROMIUM": CHROMIUM},
    )
    parts = re.split(r"^(not ok|ok) \d+ - (.*)$", done.stdout, flags=re.M)
    found = {
        name.replace("\\#", "#"): (state, text)
        for state, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }
    assert found, done.stdout + done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_a_browser(name, results):
    state, report = results[name]
    assert state == "ok", report


@pytest.mark.slow
def test_a_rebuild_gives_the_same_bytes(node, tmp_path):
    subprocess.run([node, "build.mjs", str(tmp_path)], check=True, cwd=VIEWER)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in ASSETS.iterdir()}


def test_the_bundle_is_small_and_complete():
    assert {path.name for path in ASSETS.iterdir()} == {"viewer.js", "viewer.css", "LICENSES.txt"}
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 500_000
    script = (ASSETS / "viewer.js").read_text(encoding="utf-8")
    assert "</script" not in script
    assert "</style" not in (ASSETS / "viewer.css").read_text(encoding="utf-8")
    packages = json.loads((VIEWER / "package.json").read_text())["dependencies"] if VIEWER.is_dir() else {}
    licenses = (ASSETS / "LICENSES.txt").read_text(encoding="utf-8")
    assert all(f"{name} {version} (" in licenses for name, version in packages.items())
