"""ST-Net with its image network trained too, beside the frozen one and ridge, on the folds of `systems.py`.

    DEEPSPOT_DATA=../shared/data python benchmarks/fine_tuned.py toy

Tiles are read at about the resolution that the images have (55 and 145 pixels a tile), as more pixels would only be
interpolated: 50 epochs at 224 pixels take hours on two cores. The image network has seen larger tiles before. Learning
rate and epochs are those of the paper. Writes benchmarks/results/fine_tuned_*.md.
"""

from __future__ import annotations

import sys
from functools import partial

from _cohorts import COHORTS, compare_table, write

import deepspot as ds

TILES_PX = {"toy": 64, "patients": 128}


def main(names: list[str]) -> None:
    ds.settings.progress = False
    for name in names or TILES_PX:
        px = TILES_PX[name]
        models = {
            "ST-Net, fine-tuned": partial(ds.models.STNet, fine_tune=True, px=px),
            "ST-Net, frozen": "stnet",
            "ridge": "ridge",
        }
        cv = COHORTS[name].cross_validate(models, tiles_px=px)
        write("fine_tuned", name, compare_table(cv, "ridge"))


if __name__ == "__main__":
    main(sys.argv[1:])
