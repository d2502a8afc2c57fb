"""Whether a correction of shallow counts beats them and the prediction, and counts in the wrong place are noticed.

    DEEPSPOT_DATA=../shared/data python benchmarks/correction.py

A model of C2-C4 predicts C5 (the same patient) and B4 (another one). Shallow: the counts of the section are thinned
(binomial) to a share, corrected, and compared with the complementary counts, which hold none of the thinned ones; r and
root mean squared error by gene on the log scale, mean over genes, and the mean rate (counts per 10,000) relative to
that of the complementary counts. Misplaced: the counts of half of a section come from wrong places, and are compared
with the right ones within that half; C2 and C3 are predicted by models of the other three C sections. The rule for
parts of a slide was made on C4, C5, B4 and toy slides, the level shift on C4, B4 and toy slides: of what is reported
here C5 is independent evidence for the correction, C2 and C3 for the registration. Writes
benchmarks/results/correction_shallow.md and correction_misplaced.md.
"""

from __future__ import annotations

import sys
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
from deepspot._stats.metrics import pearson, rmse
from deepspot.tl._alignment.parts import parts

SECTIONS, TESTS, MISPLACED, SEED = ["C2", "C3", "C4", "C5"], ["C5", "B4"], ["C2", "C3"], 0
OPTIONS = {"patient_key": "patient", "genes": 1000, "min_detected": 0.1, "seed": SEED}
SHARES, REPEATS, DETECTED = (0.25, 0.10, 0.05), 10, 0.3
CORRECTED = "table_corrected"
RESULTS = Path(__file__).parent / "results"


def main(parts: list[str]) -> None:
    ds.settings.progress = False
    if "shallow" in parts:
        slides = load([*SECTIONS, "B4"])
        model = learn(slides, without="C5")
        lines = []
        for name in TESTS:
            ds.tl.predict(slides[name], model)
            lines += [*thinned(name, slides[name], model), ""]
        (RESULTS / "correction_shallow.md").write_text("\n".join(lines))
    if "misplaced" in parts:
        slides, lines = load(SECTIONS), []
        for name in MISPLACED:
            model = learn(slides, without=name)
            ds.tl.predict(slides[name], model)
            lines += [*misplaced(name, slides[name], model), ""]
        (RESULTS / "correction_misplaced.md").write_text("\n".join(lines))


def learn(slides: dict[str, SpatialData], *, without: str) -> ds.models.DeepSpot:
    return ds.models.train({name: slides[name] for name in SECTIONS if name != without}, **OPTIONS)


def thinned(name: str, sdata: SpatialData, model: ds.models.DeepSpot) -> list[str]:
    counts = sdata.tables["table"].X.toarray().astype(int)
    often = pd.Series((counts > 0).mean(axis=0) >= DETECTED, index=sdata.tables["table"].var_names)
    rows, verdicts = [], []
    for share in SHARES:
        for repeat in range(REPEATS):
            kept = np.random.default_rng([SEED, repeat, round(100 * share)]).binomial(counts, share)
            slide = with_counts(sdata, kept)
            try:
                ds.tl.correct(slide, model)
                verdicts.append((share, slide.tables[CORRECTED].uns["deepspot"]["registration"].split(":")[0]))
            except ValueError as error:
                verdicts.append((share, str(error).split(":")[0]))
                ds.tl.correct(slide, model, check_registration=False)
            table = slide.tables[CORRECTED]
            truth = logged(counts - kept)[:, table.var["in_model"].to_numpy()]
            table = table[:, table.var["in_model"]]
            for panel, genes in {"all": table.var_names == table.var_names, "often": often[table.var_names]}.items():
                for layer in ("measured", "predicted", "corrected"):
                    values = np.asarray(table.layers[layer])[:, genes]
                    there = np.isfinite(truth).all(axis=1)
                    r = np.nan_to_num(pearson(values[there], truth[there][:, genes]))
                    error = rmse(values[there], truth[there][:, genes])
                    rate = np.expm1(values[there]).mean() / np.expm1(truth[there][:, genes]).mean()
                    rows.append((share, repeat, panel, layer, r.mean(), error.mean(), rate, int(np.sum(genes))))
    found = pd.DataFrame(rows, columns=["share", "repeat", "panel", "layer", "r", "rmse", "rate", "genes"])
    depth = int(np.median(counts.sum(axis=1)))
    return [*table_of(name, depth, found), "", verdicts_of(verdicts)]


def table_of(name: str, depth: int, found: pd.DataFrame) -> list[str]:
    lines = [
        f"### Shallow counts of {name} (median {depth:,} counts a spot)",
        "",
        "| counts kept | genes | r measured | r predicted | r corrected | corrected - better of both | "
        "error measured | error predicted | error corrected | corrected - better of both | "
        "rate predicted | rate corrected |",
        "|" + "---|" * 12,
    ]
    for (panel, share), part in found.groupby(["panel", "share"], sort=False):
        cells = [f"{share:.0%}", f"{part['genes'].iloc[0]:,}" + (f", in {DETECTED:.0%} of spots" * (panel == "often"))]
        for score, best in (("r", np.maximum), ("rmse", np.minimum)):
            wide = part.pivot(index="repeat", columns="layer", values=score)
            cells += [f"{wide[layer].mean():.3f}" for layer in ("measured", "predicted", "corrected")]
            gain = wide["corrected"] - best(wide["measured"], wide["predicted"])
            low, high = np.quantile(gain, [0.025, 0.975])
            cells.append(f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        rate = part.groupby("layer")["rate"].mean()
        cells += [f"{rate[layer]:.2f}" for layer in ("predicted", "corrected")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdicts_of(verdicts: list[tuple[float, str]]) -> str:
    counted = pd.Series(verdicts).value_counts()
    parts = [f"{count} of {REPEATS} {verdict.lower()} at {share:.0%}" for (share, verdict), count in counted.items()]
    return f"Verdicts on the registration, which was right: {', '.join(sorted(parts))}."


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
    main(sys.argv[1:] or ["shallow", "misplaced"])
