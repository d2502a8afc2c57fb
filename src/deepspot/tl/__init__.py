"""Tools: train, predict, and know how good a prediction is."""

from deepspot._alignment import Alignment

from ._check_alignment import check_alignment
from ._correct import correct
from ._cross_validate import cross_validate
from ._enrich import enrich
from ._evaluate import evaluate
from ._markers import markers
from ._pathways import pathways
from ._predict import predict
from ._train import train
from ._validation._result import CrossValidation

__all__ = [
    "Alignment",
    "CrossValidation",
    "check_alignment",
    "correct",
    "cross_validate",
    "enrich",
    "evaluate",
    "markers",
    "pathways",
    "predict",
    "train",
]
