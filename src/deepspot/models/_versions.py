from __future__ import annotations


def versions() -> dict[str, str]:
    """Versions of the libraries that make a model, for its card."""
    from importlib.metadata import version

    return {name: version(name) for name in ("deepspot", "torch", "lightning", "scanpy", "spatialdata", "timm")}
