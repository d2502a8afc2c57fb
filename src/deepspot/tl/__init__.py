"""Tools: train, predict, and know how good a prediction is."""

from ._alignment.align import Alignment
from ._alignment.check_alignment import check_alignment
from ._analysis.enrich import enrich
from ._analysis.markers import markers
from ._analysis.pathways import pathways
from ._cohort.cohort import cohort
from ._correct.correct import correct
from ._patients.agreement import BulkAgreement
from ._patients.bulk_agreement import bulk_agreement
from ._patients.classify import classify
from ._patients.pseudobulk import pseudobulk
from ._patients.resampling import Classification, Survival
from ._patients.survival import survival
from ._predict.predict import predict
from ._train.train import train
from ._validation.cross_validate import cross_validate
from ._validation.evaluate import evaluate
from ._validation.result import CrossValidation

__all__ = [
    "Alignment",
    "BulkAgreement",
    "Classification",
    "CrossValidation",
    "Survival",
    "bulk_agreement",
    "check_alignment",
    "classify",
    "cohort",
    "correct",
    "cross_validate",
    "enrich",
    "evaluate",
    "markers",
    "pathways",
    "predict",
    "pseudobulk",
    "survival",
    "train",
]
