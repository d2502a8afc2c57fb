from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deepspot.encoders._card import EncoderCard


@dataclass(frozen=True)
class Spec:
    """How an encoder of the zoo is built, and where its weights are.

    Attributes
    ----------
    card
        Describes it. `card.architecture` is the name of the network in its library.
    library
        Who builds the network.
    options
        What the library is told. Names only, so that it can be written into a fingerprint.
    repositories
        Hugging Face ids of the official weights; the first is downloaded from, the others are spellings in use.
    parameters
        Published number of parameters, in millions, without what `unused` leaves out.
    prefix_tokens
        Class token and registers, which come before the patch tokens.
    unused
        How tensors of a file begin that the embedding does not need, such as classifiers.
    stripped
        What the names of tensors may begin with in some files.
    weights_of
        Name of another encoder whose weights it takes, if not its own.
    """

    card: EncoderCard
    library: Literal["timm", "transformers"]
    options: dict[str, Any]
    repositories: tuple[str, ...]
    parameters: float
    prefix_tokens: int = 1
    unused: tuple[str, ...] = ()
    stripped: str = ""
    weights_of: str = ""

    @property
    def folder(self) -> str:
        """Name under which the weights lie in the folder of weights."""
        return self.weights_of or self.card.name
