"""The networks of the zoo, without weights. Only timm and transformers build them, never code of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .specs import Spec

if TYPE_CHECKING:
    from torch import nn


def network(spec: Spec, **changes: Any) -> nn.Module:
    """Network of an encoder; `changes` to its options make smaller ones for tests."""
    build = _with_timm if spec.library == "timm" else _with_transformers
    return build(spec.card.architecture, {**spec.options, **changes}).eval()


def configuration(options: dict[str, Any]) -> Any:
    """Configuration of transformers from the options of an encoder."""
    import transformers

    options = dict(options)
    return getattr(transformers, options.pop("config"))(**options)


def model_class(architecture: str) -> Any:
    """Class of transformers that an encoder is made of."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{architecture} is a network of transformers, which is not installed. Install it with "
            '`pip install "deepspot[zoo]"`.'
        ) from error
    return getattr(transformers, architecture)


def without_pooler(architecture: str) -> dict[str, bool]:
    """Argument that leaves out a layer behind the class token, which is not trained."""
    return {"add_pooling_layer": False} if architecture == "ViTModel" else {}


def _with_timm(architecture: str, options: dict[str, Any]) -> nn.Module:
    import timm
    from timm.layers import SwiGLUPacked
    from torch.nn import SiLU

    layers: dict[Any, Any] = {"SwiGLUPacked": SwiGLUPacked, "silu": SiLU}
    named = {key: layers.get(value, value) for key, value in options.items()}
    return timm.create_model(architecture, pretrained=False, num_classes=0, **named)


def _with_transformers(architecture: str, options: dict[str, Any]) -> nn.Module:
    return model_class(architecture)(configuration(options), **without_pooler(architecture))
