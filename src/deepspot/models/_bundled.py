"""Models that are saved as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.validate import check_path

from ._model import Model

if TYPE_CHECKING:
    from torch import Tensor

    from ._bundle.card import StoredCard


class BundledModel(Model):
    """A model whose numbers and card are all that it consists of."""

    card: StoredCard

    def _repr_markdown_(self) -> str | None:
        card = getattr(self, "card", None)  # not before `fit`
        return None if card is None else f"`{self!r}`\n\n{card}"

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers of the model, by their names in a bundle."""
        raise NotImplementedError

    def save(self, path: str | Path, *, half_precision: bool = False, overwrite: bool = False) -> None:
        """Save the model as a bundle: a folder with ``model.safetensors`` and ``card.json``.

        Parameters
        ----------
        path
            New folder.
        half_precision
            Store the weights in float16, in half the space. Predictions change in the third decimal.
        overwrite
            Replace an existing bundle.

        Raises
        ------
        ValueError
            If `path` exists and may not be replaced, or is not a folder name.
        """
        from ._bundle.bundle import write_bundle

        write_bundle(
            self.card, self.tensors(), check_path(path, "path"), half_precision=half_precision, overwrite=overwrite
        )

    def upload(
        self, address: str, *, token: str | None = None, private: bool = True, half_precision: bool = False
    ) -> str:
        """Upload the bundle to a repository on Hugging Face, with the card as its page.

        Parameters
        ----------
        address
            ``"hf://organization/name"``. The repository is created if it does not exist.
        token
            Access token with permission to write; None takes ``HF_TOKEN`` or the token stored on this machine.
        private
            Keep the repository private, and refuse a public one. The card names slides and patients.
        half_precision
            Store the weights in float16, as in :meth:`save`.

        Returns
        -------
        Address of the uploaded version, for :func:`deepspot.models.load`.
        """
        from ._bundle.hub import upload

        return upload(self.card, self.tensors(), address, token=token, private=private, half_precision=half_precision)
