"""Many slides and patients: prediction, evaluation, pseudobulk, agreement with bulk RNA, survival, classification."""

from ._evaluation import evaluation
from ._patients.agreement import BulkAgreement as BulkAgreement
from ._patients.bulk_agreement import bulk_agreement
from ._patients.classify import classify
from ._patients.pseudobulk import pseudobulk
from ._patients.resampling import Classification as Classification
from ._patients.resampling import Survival as Survival
from ._patients.survival import survival
from ._run.run import run

__all__ = ["bulk_agreement", "classify", "evaluation", "pseudobulk", "run", "survival"]
