"""Models of cells: those that see cells as the sub-spots of a spot, and those that see cells as spots."""

from .base import CellModel
from .cell_sum import CellSum
from .deepcell import DeepCell
from .deepspot2cell import DeepSpot2Cell

# By their names in a comparison, as presets of training, and in the cards of models.
CELL_MODELS: dict[str, type[CellModel]] = {model.system: model for model in (CellSum, DeepSpot2Cell, DeepCell)}

__all__ = ["CELL_MODELS", "CellSum", "DeepCell", "DeepSpot2Cell"]
