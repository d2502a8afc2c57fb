"""Comparison of DeepSpot with ridge on the same features and the training mean, by gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._stats.metrics import pearson

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._features.bags import Bags
    from deepspot.models import Model
    from deepspot.models._training.targets import TrainingSet

    from .slides import Slides

# Parts of the test slide for the interval of a difference, and its level.
N_PARTS, LEVEL = 10, 0.95
SYSTEMS = {"deepspot": "DeepSpot", "ridge": "Tuned ridge, same features", "training_mean": "Training mean"}

DETECTED = 0.3


def compare(slides: Slides, model: Model, *, prediction_key: str) -> tuple[pd.DataFrame, Difference]:
    """Fit the baselines on the training slides, and score all systems on the test slide.

    Returns the scores, and the difference of DeepSpot and ridge. The scores have one row per gene: `measured_mean`,
    `detected` and `detected_training` (shares of spots of the test and the training slides), and for each system `r_…`
    (Pearson, NaN if undefined) and `skill_…` (1 − MSE / MSE of the training mean). Toy slides add `program`.
    """
    from deepspot.models import Ridge, TrainingMean
    from deepspot.pl._map.values import measured_values, predicted_values

    genes = model.card.genes
    data, test = _training_set(slides.train, model), _bags(slides.test, model)
    predicted = {
        "deepspot": predicted_values(slides.test, "spots", prediction_key, genes),
        "ridge": np.maximum(data.fit(Ridge()).predict(test), 0),
        "training_mean": data.fit(TrainingMean()).predict(test),
    }
    measured = measured_values(slides.test, "spots", "table", genes)
    paired = difference(predicted["deepspot"], predicted["ridge"], measured, test.position)
    scores = score(predicted, measured, genes)
    scores.insert(2, "detected_training", (data.targets[data.rows] > 0).mean(axis=0))
    var = slides.test.tables["table"].var.loc[genes]
    if "program" in var:
        scores = scores.assign(program=var["program"].astype(str))
    return scores, paired


@dataclass(frozen=True)
class Difference:
    """Difference in r of DeepSpot and ridge, mean over genes, and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        verdict = "DeepSpot and ridge are level"
        if self.low > 0 or self.high < 0:
            verdict = "DeepSpot is ahead of ridge" if self.mean > 0 else "Ridge is ahead of DeepSpot"
        interval = f"95 % interval {self.low:+.3f} to {self.high:+.3f}"
        return f"{verdict}: the mean difference in r is {self.mean:+.3f} ({interval} over parts of the test slide)"


def difference(ours: np.ndarray, ridge: np.ndarray, measured: np.ndarray, position: np.ndarray | None) -> Difference:
    """Compare two predictions (n, genes) of spots at a `position` (n, 2) by r; an undefined r counts as 0.

    The interval is a jackknife over parts of the slide: neighboring spots resemble each other, and so do genes. It does
    not include the differences between slides and patients.
    """
    from scipy.stats import t

    from deepspot.models._confidence.folds import make_folds

    def gain(rows: np.ndarray) -> float:
        r = [np.nan_to_num(pearson(values[rows], measured[rows])).mean() for values in (ours, ridge)]
        return float(r[0] - r[1])

    every, alike = np.arange(len(measured)), np.zeros(len(measured))
    splits = make_folds(every, alike, alike, N_PARTS, position=position).splits
    without = np.array([gain(rest) for rest, _ in splits])
    error = np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum())
    mean, reach = gain(every), float(error * t.ppf((1 + LEVEL) / 2, len(without) - 1))
    return Difference(mean, mean - reach, mean + reach)


def score(predicted: dict[str, np.ndarray], measured: np.ndarray, genes: list[str]) -> pd.DataFrame:
    """Score predictions (n, genes) by system; see :func:`compare`."""
    scores = pd.DataFrame(index=pd.Index(genes, name="gene"))
    scores["measured_mean"], scores["detected"] = measured.mean(axis=0), (measured > 0).mean(axis=0)
    error = {name: ((values - measured) ** 2).mean(axis=0) for name, values in predicted.items()}
    base = error["training_mean"]
    for name, values in predicted.items():
        scores[f"r_{name}"] = pearson(values, measured)
        scores[f"skill_{name}"] = 1 - np.divide(error[name], base, out=np.full(len(genes), np.nan), where=base > 0)
    return scores


def well_measured(scores: pd.DataFrame) -> pd.DataFrame:
    """Select the genes that are detected in enough training spots; return no genes if these are all."""
    chosen = scores[scores["detected_training"] >= DETECTED]
    return chosen if len(chosen) < len(scores) else chosen[:0]


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Return per system: mean and median r over genes with a defined r, number of the others, median skill."""
    rows = {}
    for system, name in SYSTEMS.items():
        r = scores[f"r_{system}"].dropna()
        rows[name] = {
            "mean_r": r.mean() if len(r) else np.nan,
            "median_r": r.median() if len(r) else np.nan,
            "undefined": len(scores) - len(r),
            "median_skill": scores[f"skill_{system}"].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype({"undefined": int})


def _training_set(train: dict[str, SpatialData], model: Model) -> TrainingSet:
    """Return the spots and targets that the model was trained on."""
    from deepspot.models._training.slides import measure
    from deepspot.models._training.targets import targets, training_set

    patients = {slide.slide: slide.patient for slide in model.card.slides}
    measured = [
        measure(name, sdata, "spots", "table", patient=patients[name], layer=None) for name, sdata in train.items()
    ]
    expression, _ = targets(measured, model.card.genes)
    return training_set(measured, {name: _bags(sdata, model) for name, sdata in train.items()}, expression)


def _bags(sdata: SpatialData, model: Model) -> Bags:
    from deepspot._core.keys import features_name
    from deepspot._features.feature_table import bags_of

    features = features_name(model.encoder_card.name, "spots")
    return bags_of(sdata, features, "spots", model.geometry.neighbors)
