"""Whether counts in the wrong place are noticed before a correction.

    DEEPSPOT_DATA=../shared/data python benchmarks/correction.py

The counts of half of a section come from wrong places, and are compared with the right ones within that half; C2 and C3
are predicted by models of the other three C sections. The rule for parts of a slide was made on C4, C5, B4 and toy
slides, so C2 and C3 are independent evidence. Shallow counts are the subject of rescue.py. Writes
benchmarks/results/correction_misplaced.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _sections import load
from anndata import AnnData
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from spatialdata import SpatialData

import deepspot as ds
from deepspot._spatial.transforms import pitch_px, place_spots
from deepspot._stats.metrics import pearson
from deepspot.tl._alignment.parts import parts

SECTIONS, MISPLACED, SEED = ["C2", "C3", "C4", "C5"], ["C2", "C3"], 0
OPTIONS = {"patient_key": "patient", "genes": 1000, "min_detected": 0.1, "seed": SEED}
DETECTED = 0.3
CORRECTED = "table_corrected"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    ds.settings.progress = False
    slides, lines = load(SECTIONS), []
    for name in MISPLACED:
        model = learn(slides, without=name)
        ds.tl.predict(slides[name], model)
        lines += [*misplaced(name, slides[name], model), ""]
    (RESULTS / "correction_misplaced.md").write_text("\n".join(lines))


def learn(slides: dict[str, SpatialData], *, without: str) -> ds.models.DeepSpot:
    return ds.models.train({name: slides[name] for name in SECTIONS if name != without}, **OPTIONS)


def misplaced(name: str, sdata: SpatialData, model: ds.models.DeepSpot) -> list[str]:
    placement = place_spots(sdata, next(iter(sdata.images)), "spots")
    um = placement.centers * placement.mpp
    pitch, counts = pitch_px(um), sdata.tables["table"].X.toarray().astype(int)
    lines = [
        f"### Half of {name} in the wrong place",
        "",
        "r with the right counts within that half, mean over the genes of the model that are seen in "
        f"{DETECTED:.0%} of the spots.",
        "",
        "| half | counts come from | noticed | named | r misplaced | r posterior, if not noticed | r replaced |",
        "|" + "---|" * 7,
    ]
    noticed = []
    for half in [name for name in parts(um) if name.endswith("half")]:
        rows = parts(um)[half]
        for what, source in moves(um[rows], pitch).items():
            wrong = counts.copy()
            wrong[rows] = counts[cKDTree(um).query(source)[1]]
            slide = with_counts(sdata, wrong)
            verdict = ds.tl.check_alignment(slide, model)
            bad = verdict.is_misaligned
            noticed.append(bad)
            r = []
            for options in ({"check_registration": False}, {"method": "replace"}):
                ds.tl.correct(slide, model, overwrite=True, **options)
                table = slide.tables[CORRECTED]
                truth = pd.DataFrame(logged(counts), columns=sdata.tables["table"].var_names)[table.var_names]
                judged = table.var["in_model"].to_numpy() & ((truth > 0).mean() >= DETECTED).to_numpy()
                layers = ("measured", "corrected") if "method" not in options else ("corrected",)
                for layer in layers:
                    values = np.asarray(table.layers[layer])[rows][:, judged]
                    r.append(np.nan_to_num(pearson(values, truth.to_numpy()[rows][:, judged])).mean())
            named = ", ".join(verdict.misplaced) or "the slide" * bad
            cells = [half, what, "yes" if bad else "no", named, *map("{:.3f}".format, r)]
            lines.append(f"| {' | '.join(cells)} |")
    as_is = ds.tl.check_alignment(sdata, model)
    said = f"{sum(noticed)} of {len(noticed)} noticed. As it is, the section is said to be {as_is.verdict}."
    return [*lines, "", said]


def moves(um: np.ndarray, pitch: float) -> dict[str, np.ndarray]:
    middle = (um.min(axis=0) + um.max(axis=0)) / 2
    return {
        "three spots to the right": um + np.array([3 * pitch, 0]),
        "two spots below": um + np.array([0, 2 * pitch]),
        "the half turned by 180°": 2 * middle - um,
        "the half mirrored left-right": np.column_stack([2 * middle[0] - um[:, 0], um[:, 1]]),
    }


def with_counts(sdata: SpatialData, counts: np.ndarray) -> SpatialData:
    """The section with other counts, and its prediction."""
    table = sdata.tables["table"]
    changed = AnnData(csr_matrix(counts), table.obs.copy(), table.var.copy(), uns=dict(table.uns))
    return SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables={**sdata.tables, "table": changed})


def logged(counts: np.ndarray) -> np.ndarray:
    """Log1p of counts per 10,000; NaN for a spot without counts."""
    depth = counts.sum(axis=1, keepdims=True)
    return np.log1p(np.divide(counts * 1e4, depth, out=np.full(counts.shape, np.nan), where=depth > 0))


if __name__ == "__main__":
    main()
