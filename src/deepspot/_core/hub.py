"""Errors of Hugging Face in our words. Encoders, models and data sets are downloaded, each with its own way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class HubErrors:
    """What to tell.

    Attributes
    ----------
    gated
        If access has to be asked for.
    missing
        If there is no such repository, or it is private; empty where it is known to be there, so that access is what
        is missing.
    offline
        If it is not in the cache and cannot be reached.
    failed
        If anything else went wrong on the way; ``{}`` becomes the error.
    """

    gated: str
    missing: str
    offline: str
    failed: str


@contextmanager
def explain_hub_errors(words: HubErrors) -> Iterator[None]:
    """Say what to do about the errors of Hugging Face. That a file or a revision is not there is for the caller.

    Raises
    ------
    PermissionError
        If access has to be asked for.
    FileNotFoundError
        If there is no such repository.
    ConnectionError
        If it cannot be reached, or a download broke off.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(words.gated) from error
    except errors.RevisionNotFoundError:
        raise
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        if words.missing:
            raise FileNotFoundError(words.missing) from error
        raise PermissionError(words.gated) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ConnectionError(words.offline) from error
    except (errors.EntryNotFoundError, ValueError):
        raise
    except Exception as error:  # libraries for HTTP have errors of their own, and change them
        if _is_of_this_machine(error):
            raise
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConnectionError(words.failed.format(said)) from error


def _is_of_this_machine(error: Exception) -> bool:
    """Whether it is a full disk, a missing right or the like, which the system says best."""
    broken_line = (ConnectionError, TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, broken_line)
