"""Models of cells: those that see cells as the sub-spots of a spot, and those that see cells as spots."""

from .cell_sum import CellSum
from .deepcell import DeepCell
from .deepspot2cell import DeepSpot2Cell

__all__ = ["CellSum", "DeepCell", "DeepSpot2Cell"]
