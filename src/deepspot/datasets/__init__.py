"""Data sets: synthetic slides with known ground truth, and published slides."""

from ._benchmarks import Benchmark as Benchmark
from ._benchmarks import hest_bench, stp_bench
from ._her2st import her2st
from ._hest import hest
from ._tcga import tcga
from ._tls import tls
from ._toy import toy

__all__ = ["her2st", "hest", "hest_bench", "stp_bench", "tcga", "tls", "toy"]
