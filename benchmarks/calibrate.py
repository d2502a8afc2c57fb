"""What one measured slide of a new patient is worth to a trained model: corrections against ridge of the slide alone.

    DEEPSPOT_DATA=../shared/data python benchmarks/calibrate.py

The embedded model learned from both patients of the data, so models of its kind (features of lite0_stats, but 300 genes
and one network) are trained on one patient and adapted to a section of the other one: of C2-C5 to B4, and of B4 to each
of C2-C5. Everything is fitted on four of five strips of the section, and compared on the fifth (the folds of
`ds.models.calibrate`). "Ridge of the slide alone" is tuned ridge on the same features and strips, without the trained
model. Null models: the mean of the strips of the fit, a prediction from positions, and the ridge correction fitted
with features of other spots of the section. r is the mean over genes within a strip, where a constant prediction
counts as 0; the error is RMSE on log1p of counts per 10,000. The intervals of differences are the 5 and 95 % quantiles
of a bootstrap over strips and genes. Five strips of one section are few, and the C sections are near-replicates of one
tumor: they are no independent patients.

The second table is for the next section of the same patient: the correction is fitted to one of C2-C5 and applied to
each of the other three. Writes benchmarks/results/calibrate.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _sections import load

import deepspot as ds
from deepspot._stats.metrics import pearson
from deepspot.models._baselines.ridge import fit_weighted
from deepspot.models._calibration.calibrate import _plan
from deepspot.models._calibration.correction import Correction
from deepspot.models._confidence.folds import make_folds
from deepspot.models._training.config import SlideKeys
from deepspot.models._training.targets import TrainingSet, targets, training_set

C = ["C2", "C3", "C4", "C5"]
OPTIONS = {"patient_key": "patient", "genes": 300, "min_detected": 0.1, "network": {"members": 1}, "seed": 0}
SYSTEMS = {
    "before": "trained model",
    "affine": "affine correction",
    "ridge": "ridge correction",
    "alone": "ridge of the slide alone",
    "shuffled": "null: ridge correction, features of other spots",
    "position": "null: positions",
    "mean": "null: mean of the fit",
}
DRAWS = 1000
OUT = Path(__file__).parent / "results" / "calibrate.md"


@dataclass(frozen=True)
class Section:
    """Measured spots of a section, with the predictions (n, genes) of a model that did not learn from it."""

    name: str
    data: TrainingSet
    predicted: np.ndarray


def main() -> None:
    ds.settings.progress = False
    slides = load(["B4", *C])
    of_c = trained("C", {name: slides[name] for name in C})
    of_b = trained("B", {"B4": slides["B4"]})
    sections = {"B4": section(of_c, "B4", slides)} | {name: section(of_b, name, slides) for name in C}
    context = of_b.context
    lines = [f"Trained with `{OPTIONS}`.", "", "### Other strips of the section", "", *header()]
    for name, one in sections.items():
        lines += rows(name, within(one, context))
        print("\n".join(lines[-len(SYSTEMS) :]), flush=True)
    lines += ["", "### Other sections of the patient (mean over 12 pairs of C2-C5)", "", *header()]
    lines += rows("C to C", between([sections[name] for name in C], context))
    OUT.write_text("\n".join(lines) + "\n")


def section(model: Any, name: str, slides: dict[str, Any]) -> Section:
    plan = _plan(model, {name: slides[name]}, None, SlideKeys(), None)
    bags = plan.embed()
    data = training_set(plan.measured, bags, targets(plan.measured, model.card.genes)[0])
    return Section(name, data, model.predict(data.bags))


def trained(name: str, sections: dict[str, Any]) -> Any:
    """Train once: the bundle is kept between runs."""
    path = ds.settings.cache("benchmarks", f"calibrate_{name}")
    if not path.exists():
        ds.models.train(sections, **OPTIONS).save(path)
    return ds.models.load(path)


def within(one: Section, context: Any) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return r and squared error by system, strip and gene."""
    data = one.data
    folds = make_folds(data.rows, data.slides, data.patients, position=data.bags.position)
    scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {system: [] for system in SYSTEMS}
    for train, held in folds.splits:
        for system, values in predict_all(one, one, train, held, context).items():
            scores[system].append(score(values, data.targets[held]))
    return scores


def between(sections: list[Section], context: Any) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return r and squared error by system, pair of sections and gene."""
    scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {system: [] for system in SYSTEMS}
    for one in sections:
        for other in sections:
            if one is not other:
                held = other.data.rows
                for system, values in predict_all(one, other, one.data.rows, held, context).items():
                    scores[system].append(score(values, other.data.targets[held]))
    return scores


def predict_all(one: Section, other: Section, train: np.ndarray, held: np.ndarray, context: Any) -> dict[str, Any]:
    """Fit to spots of a section, and predict spots of the same or another one."""
    data = one.data
    groups = {"rows": train, "slides": data.slides, "patients": data.patients}
    found = {"before": other.predicted[held]}
    for kind in ("affine", "ridge"):
        fitted = Correction.fit(kind, one.predicted, data.targets, data.bags, context=context, **groups)
        found[kind] = fitted.apply(other.predicted[held], other.data.bags, held)
    alone = fit_weighted(data.bags, data.targets, context=context, **groups, weights=np.ones(len(data.bags)))
    found["alone"] = alone.predict(other.data.bags, rows=held)
    order = np.random.default_rng(0).permutation(len(data.bags))
    wrong = replace(data.bags, spot=data.bags.spot[order], subspots=data.bags.subspots[order])
    nothing = Correction.fit("ridge", one.predicted, data.targets, wrong, context=context, **groups)
    found["shuffled"] = nothing.apply(other.predicted[held], other.data.bags, held)
    place = ds.models.PositionOnly().fit(data.bags, data.targets, **groups)
    found["position"] = place.predict(other.data.bags)[held]
    found["mean"] = np.broadcast_to(data.targets[train].mean(axis=0), (len(held), data.targets.shape[1]))
    return found


def score(predicted: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.clip(predicted, 0, np.log1p(1e4))
    r = pearson(values, measured)
    varies = np.isfinite(pearson(measured, measured))
    return np.where(varies, np.nan_to_num(r), np.nan), ((values - measured) ** 2).mean(axis=0)


def header() -> list[str]:
    columns = ("section", "system", "r", "r minus trained model", "r minus ridge alone", "error", "error minus before")
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def rows(name: str, scores: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> list[str]:
    r = {system: np.stack([part[0] for part in parts]) for system, parts in scores.items()}
    squares = {system: np.stack([part[1] for part in parts]) for system, parts in scores.items()}
    lines = []
    for system, label in SYSTEMS.items():
        cells = [name, label, f"{np.nanmean(r[system]):.3f}"]
        cells += ["" if system == base else difference(r[system], r[base], mean) for base in ("before", "alone")]
        cells.append(f"{error(squares[system]):.3f}")
        cells.append("" if system == "before" else difference(squares[system], squares["before"], error))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))


def error(squares: np.ndarray) -> float:
    return float(np.nanmean(np.sqrt(squares.mean(axis=0))))  # NaN for genes that a section does not measure


def difference(a: np.ndarray, b: np.ndarray, statistic: Any) -> str:
    """Return a difference with its interval, over strips (or pairs of sections) and genes."""
    rng, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        part = np.ix_(rng.integers(len(a), size=len(a)), rng.integers(a.shape[1], size=a.shape[1]))
        drawn.append(statistic(a[part]) - statistic(b[part]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    return f"{statistic(a) - statistic(b):+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
