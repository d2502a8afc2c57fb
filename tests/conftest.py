import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot._core.logging import logger
from deepspot._sdata.write import make_table
from deepspot._spatial.geometry import split

mpl.use("Agg")
ds.settings.progress = False


@pytest.fixture(scope="session")
def data():
    path = os.environ.get("DEEPSPOT_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("needs the folder of real data in DEEPSPOT_DATA")
    return Path(path)


@pytest.fixture
def log():
    """Messages of the package's logger, which does not propagate to pytest's own handler."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def full_disk():
    """A context in which files of more than 1,000 bytes cannot be written, also by libraries in C or Rust."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit():
        known = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, known[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, known)

    return limit


@pytest.fixture(scope="session")
def python_blocks():
    """The Python blocks of a page, by name from the root: those that run, and those that a comment marks as not run."""

    def read(page):
        found = re.findall(
            r"(?:^<!-- not run: ([^\n]+) -->\n)?^```python\n(.*?)^```",
            (Path(__file__).parents[1] / page).read_text(encoding="utf-8"),
            flags=re.M | re.S,
        )
        return [block for reason, block in found if not reason], [block for reason, block in found if reason]

    return read


@pytest.fixture(scope="session")
def toy():
    """Two slides of two patients. Shared by all tests, so none may change them: see `slides`."""
    return ds.datasets.toy(2, 1, n_rows=5, n_cols=6)


@pytest.fixture
def slides(toy):
    from spatialdata import deepcopy

    return {name: deepcopy(sdata) for name, sdata in toy.items()}


@pytest.fixture
def slide(slides):
    return slides["P1_S1"]


class MeanColor:
    """Mean color of 3 × 3 parts of a tile: cheap, and a tile can be told from its embedding.

    Colors from 0 to 8 are exact in float16, and a short training predicts possible values from them.
    """

    def __init__(self, name="mean_color", fingerprint="colors 0-8", input_px=32):
        self.card = ds.encoders.EncoderCard(name=name, dim=27, input_px=input_px)
        self.fingerprint = fingerprint
        self.seen = []

    def to(self, device):
        return self

    def encode(self, tiles):
        self.seen.append(tiles.copy())
        rows = np.array_split(tiles.astype(np.float32) / 32, 3, axis=1)
        parts = [part.mean(axis=(1, 2)) for row in rows for part in np.array_split(row, 3, axis=2)]
        return np.concatenate(parts, axis=1)

    @property
    def n_tiles(self):
        return sum(map(len, self.seen))


class ExactColor(MeanColor):
    """The same, whose parts are what tiles of their own would be: all that may change is how often it is asked."""

    def encode_parts(self, tiles, grid):
        spot = self.encode(tiles)
        parts = MeanColor().encode(split(tiles, grid))
        return spot, parts.reshape(len(tiles), grid * grid, -1)


@pytest.fixture(scope="session")
def mean_color():
    return MeanColor


@pytest.fixture
def cheap_encoder():
    return MeanColor()


@pytest.fixture(scope="session")
def exact_color():
    return ExactColor


@pytest.fixture
def exact_encoder():
    return ExactColor()


@pytest.fixture(scope="session")
def slide_of():
    """Make a SpatialData of an image (height, width, 3), spots and their transformations."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Affine, Identity

    def affines(matrices):
        if matrices is None:
            return {"global": Identity()}
        return {name: Affine(np.asarray(m, float), ("x", "y"), ("x", "y")) for name, m in matrices.items()}

    def make(image, centers, *, image_to=None, spots_to=None, mpp=None, diameter_um=None, index=None, **options):
        options = {"dims": ("c", "y", "x"), "c_coords": ["r", "g", "b"]} | options
        picture = Image2DModel.parse(image.transpose(2, 0, 1), transformations=affines(image_to), **options)
        circles = ShapesModel.parse(
            np.asarray(centers, float), geometry=0, radius=10, index=index, transformations=affines(spots_to)
        )
        if diameter_um is not None:
            circles["diameter_um"] = float(diameter_um)
        sdata = SpatialData(images={"he": picture}, shapes={"spots": circles})
        if mpp is not None:
            ds.pp.set_scale(sdata, image_key="he", mpp=mpp)
        return sdata

    return make


# After three epochs ridge would win: the gate is written down, and the network predicts all the same.
QUICK = {
    "network": {"width": 16, "members": 1},
    "training": {"epochs": 3, "max_epochs": 3, "gate": "record"},
    "seed": 0,
}


@pytest.fixture
def quick(cheap_encoder):
    """Arguments of a training that takes a second."""
    return {"patient_key": "patient", "genes": 10, "encoder": cheap_encoder, **QUICK}


@pytest.fixture(scope="session")
def quick_model(toy, mean_color):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    return ds.models.train(slides, patient_key="patient", genes=10, encoder=mean_color(), **QUICK)


@pytest.fixture(scope="session")
def add_table():
    """Add a table as `ds.tl.predict` and `ds.tl.correct` make it; `values` (n, genes) in the order of the shapes."""

    def add(sdata, values, genes, key="deepspot_spots", *, shapes_key="spots", kind="prediction", layers=None, **more):
        sdata.tables[key] = make_table(
            np.asarray(values, dtype=np.float32),
            region=shapes_key,
            instances=sdata.shapes[shapes_key].index,
            region_key="region",
            instance_key="spot_id",
            var=pd.DataFrame(index=genes),
            layers={name: np.asarray(layer, dtype=np.float32) for name, layer in (layers or {}).items()},
            uns={"log1p": {}, "deepspot": {"kind": kind, "scale": "log1p of counts per 10,000"}},
            **more,
        )

    return add
