"""Errors of Hugging Face, translated into messages with a next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class HubErrors:
    """Messages for the errors of a download of an encoder, a model or a data set."""

    gated: str  # access must be requested
    missing: str  # no such repository, or a private one; empty if it is known to exist, so that access is missing
    offline: str  # not in the cache and not reachable
    failed: str  # any other error, which is inserted at `{}`


@contextmanager
def explain_hub_errors(messages: HubErrors) -> Iterator[None]:
    """Translate errors of Hugging Face, except for missing files and revisions, which the caller handles.

    Raises PermissionError if access must be requested, FileNotFoundError if there is no such repository, and
    ConnectionError if the hub cannot be reached or a download is interrupted.
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
    except Exception as error:  # HTTP libraries have their own errors, which differ between versions
        network = isinstance(error, ConnectionError | TimeoutError)
        if isinstance(error, OSError) and error.errno is not None and not network:
            raise  # a full disk, a missing permission: the system's message is the best
        cause = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ConnectionError(messages.failed.format(cause)) from error
