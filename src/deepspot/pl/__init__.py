"""Figures: maps of genes and pathways, images of spots, training curves, and accuracy of models."""

from ._ablation import ablation
from ._alignment import alignment
from ._benchmark import benchmark
from ._bulk_agreement import bulk_agreement
from ._cohort_size import cohort_size
from ._enrichment import enrichment
from ._evaluation import evaluation
from ._gallery import gallery
from ._markers import markers
from ._pathways import pathways
from ._regions import regions
from ._reliability import reliability
from ._resampled import classification, survival
from ._slides import slides
from ._spatial import spatial
from ._superresolution import superresolution
from ._training import training
from ._umap import umap

__all__ = [
    "ablation",
    "alignment",
    "benchmark",
    "bulk_agreement",
    "classification",
    "cohort_size",
    "enrichment",
    "evaluation",
    "gallery",
    "markers",
    "pathways",
    "regions",
    "reliability",
    "slides",
    "spatial",
    "superresolution",
    "survival",
    "training",
    "umap",
]
