"""A network as ONNX Runtime computes it on a CPU: the numbers of torch to rounding, in less time."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Of two runtimes that add up in another order, relative to the largest number; a wrong graph is off by far more.
ROUNDING = 1e-3


class OnnxNetwork:
    """A method of a module, from pixels (n, 3, px, px) in float32 to one array or several (n, ...), on a CPU.

    Parameters
    ----------
    module, method
        What computes.
    pixels
        As the module gets them (n, 3, px, px); what it makes of these is compared.
    name
        Of the encoder, for errors.

    Raises
    ------
    ImportError
        If ONNX Runtime, or what translates for it, is not installed.
    ValueError
        If the network cannot be translated, or computes something else then.
    """

    def __init__(self, module: nn.Module, method: str, pixels: Tensor, name: str) -> None:
        # Of one tile or none, a translation would not know that their number can change.
        example = pixels[:1].expand(2, -1, -1, -1).clone() if len(pixels) else torch.rand(2, *pixels.shape[1:])
        network = _Method(module, method).eval()
        self.session = _session(network, example, name)
        with torch.no_grad():
            pairs = list(zip(_several(network(example)), _several(self(example)), strict=True))
        off = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs)
        if not off < ROUNDING:
            raise ValueError(
                f"In ONNX Runtime the network of encoder {name!r} gives something else than in torch: {off:.2g} of its "
                "largest number. Set `ds.settings.runtime = 'torch'`."
            )

    def __call__(self, pixels: Tensor) -> Any:
        """Compute."""
        inputs = {self.session.get_inputs()[0].name: pixels.numpy(force=True)}
        made = [torch.from_numpy(np.asarray(array)) for array in self.session.run(None, inputs)]
        return made[0] if len(made) == 1 else tuple(made)


class _Method(nn.Module):
    """A module that does what a method of another does."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, pixels: Tensor) -> Any:
        return getattr(self.module, self.method)(pixels)


def _several(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def _session(network: nn.Module, example: Tensor, name: str) -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch asks for it only when it translates
    except ImportError as error:
        raise ImportError(
            f"`ds.settings.runtime = 'onnx'` needs {error.name}. Install it with `pip install \"deepspot[onnx]\"`, or "
            "set it to 'torch'."
        ) from error
    onnxruntime.disable_telemetry_events()  # of builds for Windows; nothing may leave the machine
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "network.onnx"
        try:
            # Inference mode makes tensors that cannot be traced.
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    network, (example.clone(),), path, dynamo=True, verbose=False, external_data=True,
                    dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(
                f"The network of encoder {name!r} cannot be translated for ONNX Runtime ({_first_line(error)}). Set "
                "`ds.settings.runtime = 'torch'`."
            ) from error
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
