"""Errors that the package raises on purpose, in words meant for users.

Each of them is also the built-in error of its kind, so that ``except ValueError`` and the like catch it. What goes
wrong with files, rights and connections is an `OSError`, as everywhere in Python. Any other error is a bug, of this
package or of a library.
"""

__all__ = ["DeepSpotError", "InputError", "InputTypeError", "MissingKeyError", "MissingPackageError"]


class DeepSpotError(Exception):
    """Base of the errors that say what is wrong with the input or the installation, and what to do about it."""


class InputError(DeepSpotError, ValueError):
    """A value, an object or a file does not fit. Also a `ValueError`."""


class InputTypeError(DeepSpotError, TypeError):
    """An argument has the wrong type. Also a `TypeError`."""


class MissingKeyError(DeepSpotError, KeyError):
    """A named element, table, column, gene or the like does not exist. Also a `KeyError`."""

    def __str__(self) -> str:
        # Python quotes the text of a KeyError, and shows its line breaks as \\n.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class MissingPackageError(DeepSpotError, ImportError):
    """An optional package is not installed. Also an `ImportError`."""
