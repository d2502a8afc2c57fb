"""Models on embeddings, and their bundles."""

from deepspot._features.bags import Bags

from ._adapted.adapt import AdaptedModel, adapt
from ._baselines import BLEEP, MLP, Linear, PositionOnly, RandomForest, Ridge, ShuffledImages, STNet, TrainingMean
from ._bundle.card import ModelCard
from ._calibration.calibrate import calibrate
from ._calibration.correction import CorrectedModel
from ._cells import CellSum, DeepCell, DeepSpot2Cell
from ._confidence.gate import Gate
from ._confidence.reliability import Reliability
from ._cross_validation.cross_validate import cross_validate
from ._cross_validation.result import CrossValidation
from ._deepspot import DeepSpot
from ._estimator import Estimator
from ._legacy import convert_legacy
from ._model import Model
from ._network.config import NetworkConfig, TrainingConfig
from ._registry import available, load
from ._training.config import SlideKeys, TileConfig
from ._training.train import train
from ._whole_slide import TRIPLEX, Hist2ST, HisToGene, THItoGene

__all__ = [
    "BLEEP",
    "MLP",
    "TRIPLEX",
    "AdaptedModel",
    "Bags",
    "CellSum",
    "CorrectedModel",
    "CrossValidation",
    "DeepCell",
    "DeepSpot",
    "DeepSpot2Cell",
    "Estimator",
    "Gate",
    "HisToGene",
    "Hist2ST",
    "Linear",
    "Model",
    "ModelCard",
    "NetworkConfig",
    "PositionOnly",
    "RandomForest",
    "Reliability",
    "Ridge",
    "STNet",
    "ShuffledImages",
    "SlideKeys",
    "THItoGene",
    "TileConfig",
    "TrainingConfig",
    "TrainingMean",
    "adapt",
    "available",
    "calibrate",
    "convert_legacy",
    "cross_validate",
    "load",
    "train",
]
