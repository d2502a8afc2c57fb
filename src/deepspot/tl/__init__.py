"""Tools: predict and correct gene expression, measure how good a prediction is, and analyze it."""

from ._alignment.align import Alignment as Alignment
from ._alignment.check_alignment import check_alignment
from ._analysis.enrich import enrich
from ._analysis.markers import markers
from ._analysis.pathways import pathways
from ._correct.correct import correct
from ._evaluate import evaluate
from ._evaluate_resolution import evaluate_resolution
from ._predict.predict import predict
from ._trust import trust

__all__ = [
    "check_alignment",
    "correct",
    "enrich",
    "evaluate",
    "evaluate_resolution",
    "markers",
    "pathways",
    "predict",
    "trust",
]
