"""Errors that the package raises for invalid input or a missing installation.

Each is also the matching built-in error, so that ``except ValueError`` and the like catch it. Problems with files,
permissions and connections raise `OSError`. Any other error is a bug in this package or in a library.
"""

__all__ = ["DeepSpotError", "InputError", "InputTypeError", "MissingKeyError", "MissingPackageError"]


class DeepSpotError(Exception):
    """Base class of the errors that describe a problem with the input or the installation, and its solution."""


class InputError(DeepSpotError, ValueError):
    """A value, an object or a file is invalid. Also a `ValueError`."""


class InputTypeError(DeepSpotError, TypeError):
    """An argument has the wrong type. Also a `TypeError`."""


class MissingKeyError(DeepSpotError, KeyError):
    """A named element, table, column or gene does not exist. Also a `KeyError`."""

    def __str__(self) -> str:
        # Python quotes the text of a KeyError, and shows its line breaks as \\n.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class MissingPackageError(DeepSpotError, ImportError):
    """An optional package is not installed. Also an `ImportError`."""
