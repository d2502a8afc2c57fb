import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest

EVIL = "<img src=x onerror=alert(1)>"
LABEL = "</script><script>alert(2)</script>"
GENES = ["UP", "FLAT", EVIL, "NEW"]


class Page:
    """Reads the parts of a page of `ds.view`."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        found = re.findall(r'<script type="[\w/]+" id="([\w-]+)">(.*?)</script>', self.text, flags=re.S)
        self.blocks = dict(found)
        assert len(self.blocks) == len(found)
        self.facts = json.loads(self.blocks["facts"])

    def bytes(self, name):
        return gzip.decompress(base64.b64decode(self.blocks[name]))

    def array(self, name, dtype):
        return np.frombuffer(self.bytes(name), np.dtype(dtype).newbyteorder("<"))

    def values(self, layer, gene):
        """Values (n,) of a gene in a layer, as the browser computes them."""
        column = self.facts["genes"].index(gene)
        present = [each for each in self.facts["layers"] if each["low"][column] is not None]
        each = next(each for each in present if each["key"] == layer)
        levels = self.array(f"gene-{column}", np.uint8).reshape(len(present), -1)[present.index(each)]
        values = each["low"][column] + levels / 254 * (each["high"][column] - each["low"][column])
        return np.where(levels == 255, np.nan, values), (each["high"][column] - each["low"][column]) / 254 / 2


@pytest.fixture
def read_page():
    return Page


@pytest.fixture(scope="session")
def add_results(add_table):
    """Add predicted genes to a slide of 30 spots, some out of distribution, and groups; rename some measured genes."""

    def add(slide):
        rng = np.random.default_rng(0)
        n = len(slide.shapes["spots"])
        values = np.column_stack([np.linspace(0, 3, n), np.full(n, 1.5), rng.normal(1, 0.5, n), rng.normal(2, 0.5, n)])
        values[4, 0] = np.nan
        add_table(slide, values, GENES)
        table = slide.tables["deepspot_spots"]
        table.uns["deepspot"]["model"] = "<b>model</b>"
        table.var["expected_r"], table.var["expected_r_low"] = [0.61, 0.02, 0.3, np.nan], [0.5, -0.4, np.nan, np.nan]
        table.var["expected_r_high"] = [0.7, 0.4, np.nan, np.nan]
        table.obs["ood_score"] = np.linspace(0.2, 1.1, n).astype(np.float32)
        table.obs["ood"] = table.obs["ood_score"] > 1
        table.obs["annotation"] = pd.Categorical(np.repeat(["tumor", LABEL], [n // 2, n - n // 2]), ["tumor", LABEL])
        measured = slide.tables["table"]
        measured.var_names = ["UP", "FLAT", EVIL, *measured.var_names[3:]]
        return slide

    return add


@pytest.fixture
def predicted(slide, add_results):
    return add_results(slide)
