"""All that a published checkpoint may name. Nothing of it is imported: the names are labels, see `_pickle`."""

from __future__ import annotations

from typing import Literal

Kind = Literal["class", "function", "value"]

_CLASSES = (
    "deepspot.spot.model.DeepSpot",
    "deepspot.spot.model.Phi",
    "deepspot.spot.model.Rho",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.linear.Linear",
    "lightning.fabric.utilities.data.AttributeDict",
    "sklearn.preprocessing._data.StandardScaler",
)
_FUNCTIONS = (
    "_codecs.encode",
    "builtins.bytes",
    "builtins.getattr",
    "builtins.set",
    "collections.OrderedDict",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
)
_VALUES = (
    "numpy.ndarray",
    *(f"torch.{name}" for name in ("DoubleStorage", "FloatStorage", "HalfStorage", "float16", "float32", "float64")),
    *(
        f"deepspot.spot.loss.loss_{name}_function"
        for name in ("mse", "cosine", "mse_cosine", "pearson", "mse_pearson", "poisson")
    ),
)
ALLOWED: dict[str, Kind] = {
    **dict.fromkeys(_CLASSES, "class"),
    **dict.fromkeys(_FUNCTIONS, "function"),
    **dict.fromkeys(_VALUES, "value"),
}

# The same things under the names that other versions of Python, numpy, Lightning and the authors' code gave them.
_RENAMED = {
    "__builtin__": "builtins",
    "deepspot.loss": "deepspot.spot.loss",
    "deepspot.model": "deepspot.spot.model",
    "lightning.pytorch.utilities.parsing": "lightning.fabric.utilities.data",
    "lightning_fabric.utilities.data": "lightning.fabric.utilities.data",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "pytorch_lightning.utilities.parsing": "lightning.fabric.utilities.data",
    "sklearn.preprocessing.data": "sklearn.preprocessing._data",
}
_SINGLE_CELL = ("deepspot.cell.", "deepspot.deepspot2cell.")


def full_name(module: str, name: str) -> str:
    """The one name under which something is known here."""
    return f"{_RENAMED.get(module, module)}.{name}"


def refusal(name: str) -> str:
    """Why a name that is not allowed stops the conversion."""
    name = name[:80].encode("unicode_escape").decode()  # it goes to a terminal
    if name.startswith(_SINGLE_CELL):
        return (
            f"is a single-cell checkpoint ({name}). It takes cells and their neighbours through deeper networks than "
            "those of spots, which deepspot does not have. Only spot checkpoints (`deepspot.spot.DeepSpot`) convert."
        )
    if name.startswith("sklearn."):
        return f"scales its genes with {name}. Only a StandardScaler can be converted."
    return (
        f"asks for {name!r}, which no published checkpoint needs, so it may be malicious. Nothing of it was run. Do "
        "not open it with `torch.load`, and get the file from its authors again."
    )
