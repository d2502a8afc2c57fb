from ._tcga import tcga

__all__ = ["tcga"]
