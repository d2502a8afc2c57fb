"""Build the networks of the zoo with timm or transformers, without weights and without code of a repository."""

from __future__ import annotations

from typing import Any

from torch import nn

from deepspot.errors import MissingPackageError

from .specs import Spec


def network(spec: Spec) -> nn.Module:
    """Build the network of an encoder without its weights."""
    if spec.library == "transformers":
        cls, arguments = class_of_transformers(spec)
        return cls(**arguments).eval()
    import timm

    layers = {"mlp_layer": timm.layers.SwiGLUPacked} if "mlp_layer" in spec.options else {}
    return timm.create_model(spec.card.architecture, num_classes=0, **spec.options | layers).eval()


def class_of_transformers(spec: Spec) -> tuple[Any, dict[str, Any]]:
    """Return the transformers class of an encoder and the arguments of its constructor."""
    architecture, options = spec.card.architecture, dict(spec.options)
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            f"{architecture} is a network of transformers, which is not installed. Install it with "
            '`pip install ".[zoo]"`.'
        ) from error
    arguments = {"config": getattr(transformers, options.pop("config"))(**options)}
    if architecture == "ViTModel":  # its pooling layer is not trained
        arguments["add_pooling_layer"] = False
    return getattr(transformers, architecture), arguments
