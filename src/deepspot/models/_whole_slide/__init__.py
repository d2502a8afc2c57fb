"""Models that see all spots of a slide together."""

from .hist2st import Hist2ST
from .histogene import HisToGene
from .thitogene import THItoGene
from .triplex import TRIPLEX

__all__ = ["TRIPLEX", "HisToGene", "Hist2ST", "THItoGene"]
