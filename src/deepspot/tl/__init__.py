"""Tools: train, predict, and know how good a prediction is."""

from deepspot._alignment import Alignment

from ._bulk_agreement import bulk_agreement
from ._check_alignment import check_alignment
from ._classify import classify
from ._cohort import cohort
from ._cohort_cost import cohort_cost
from ._correct import correct
from ._cross_validate import cross_validate
from ._enrich import enrich
from ._evaluate import evaluate
from ._markers import markers
from ._pathways import pathways
from ._patients._agreement import BulkAgreement
from ._patients._results import Classification, Survival
from ._predict import predict
from ._pseudobulk import pseudobulk
from ._survival import survival
from ._train import train
from ._validation._result import CrossValidation

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
    "cohort_cost",
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
