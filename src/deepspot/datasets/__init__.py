"""Data sets: synthetic slides with known ground truth, and published slides."""

from ._her2st import her2st
from ._hest import hest
from ._tcga import tcga
from ._tls import tls
from ._toy import toy

__all__ = ["her2st", "hest", "tcga", "tls", "toy"]
