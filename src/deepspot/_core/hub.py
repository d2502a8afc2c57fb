"""Errors of Hugging Face, with what to do: encoders, models and data sets are downloaded, each with its own advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class HubErrors:
    """Messages for what can go wrong.

    Attributes
    ----------
    gated
        If access has to be asked for.
    missing
        If there is no such repository, or it is private; empty where it is known to exist, so that access is missing.
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
def explain_hub_errors(messages: HubErrors) -> Iterator[None]:
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
        raise PermissionError(messages.gated) from error
    except errors.RevisionNotFoundError:
        raise
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        if messages.missing:
            raise FileNotFoundError(messages.missing) from error
        raise PermissionError(messages.gated) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ConnectionError(messages.offline) from error
    except (errors.EntryNotFoundError, ValueError):
        raise
    except Exception as error:  # libraries for HTTP have errors of their own, and change them
        if _is_local(error):
            raise
        cause = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConnectionError(messages.failed.format(cause)) from error


def _is_local(error: Exception) -> bool:
    """Whether it is a full disk, a missing right or the like, which the system says best."""
    network = (ConnectionError, TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, network)
