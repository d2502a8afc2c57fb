"""One frozen section for each tissue sample of a manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from deepspot._core.keys import key_in
from deepspot._core.logging import logger
from deepspot.errors import InputError

Sections = Literal["top", "largest"]
# Project, source site and participant; sample type and vial; portion; kind and number of the slide.
BARCODE = re.compile(r"(TCGA-\w{2}-\w{4}-\d{2}[A-Z])-(\d{2}\w?)-(TS|MS|BS|DX)(\w*)")
ORDER = {"TS": 0, "MS": 1, "BS": 2}


def choose_sections(slides: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Return the rows of a manifest with one frozen section for each sample; all other slides are kept.

    Slides of a patient are sections of one sample if they share the value of the column `sample`, else the sample of
    their TCGA barcode, such as ``TCGA-AB-1234-01A``. Slides that are not frozen (``FFPE``, diagnostic slides of TCGA)
    and those without a sample are kept. ``"top"`` is the top section by the barcode, else the middle, else the bottom
    one; of several that of the first portion and number. ``"largest"`` has the largest `tissue_area`, if it is known
    for all sections of the sample, else the largest file.
    """
    key_in(rule, get_args(Sections), "sections")
    rows = pd.DataFrame([_row(name, slide) for name, slide in slides.iterrows()], index=slides.index)
    kept = pd.Series(True, index=slides.index)
    for (_, sample), part in rows[rows["frozen"] & rows["sample"].notna()].groupby(["patient", "sample"], sort=False):
        if len(part) == 1:
            continue
        if rule == "top":
            unknown = part.index[part["order"].isna()].tolist()
            if unknown:
                raise InputError(
                    f"Which section of sample {sample!r} is the top one is unknown: {unknown[:3]} are no barcodes of "
                    'TCGA such as TCGA-AB-1234-01A-01-TS1. Use `sections="largest"`, or leave the others out.'
                )
            best = min(part.index, key=lambda name: part["order"][name])
        else:
            size = part["area"] if part["area"].notna().all() else part["bytes"]
            best = size.astype(float).idxmax()
        kept[part.index.drop(best)] = False
    left_out = slides.index[~kept].tolist()
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        logger.info("Only the %s section of each sample is kept. Left out: %s%s.", rule, ", ".join(left_out[:5]), more)
    return slides[kept]


def _row(name: object, slide: pd.Series) -> dict[str, object]:
    """Return what the choice depends on."""
    path = Path(slide["path"])
    barcode = BARCODE.search(str(name)) or BARCODE.search(path.name)
    sample, kind = slide.get("sample"), slide.get("preservation")
    if pd.isna(sample):
        sample = barcode[1] if barcode else None
    diagnostic = barcode is not None and barcode[3] == "DX"
    section = barcode if barcode and not diagnostic else None
    return {
        "patient": str(slide["patient"]),
        "sample": None if sample is None else str(sample),
        "frozen": kind == "FF" or (pd.isna(kind) and not diagnostic),
        "order": (ORDER[section[3]], section[2], len(section[4]), section[4]) if section else None,
        "area": slide.get("tissue_area", float("nan")),
        "bytes": path.stat().st_size if path.is_file() else 0,
    }
