"""``deepspot demo``: the main job from beginning to end, on real sections where they can be had."""

from ._run import run_demo

__all__ = ["run_demo"]
