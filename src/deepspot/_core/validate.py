"""Checks of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from numbers import Integral, Real
from pathlib import Path

from deepspot.errors import InputError, InputTypeError, MissingKeyError

from .settings import MOST_SEED, settings


def check_genes(gene: str | Sequence[str], known: Iterable[str], where: str) -> list[str]:
    """Return genes as a list without repetitions if all are known; the error lists similar names."""
    from difflib import get_close_matches

    if not isinstance(gene, Iterable):
        raise InputTypeError(f"`gene` or `genes` must be a name or several names, got {type(gene).__name__}.")
    wanted = [gene] if isinstance(gene, str) else list(dict.fromkeys(gene))
    if not wanted:
        raise InputError("`gene` or `genes` is empty. Pass the name of a gene, or several.")
    names = dict.fromkeys(known)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        near = get_close_matches(str(unknown[0]), list(names), n=5, cutoff=0.5)
        hint = f"Similar names: {near}." if near else f"Its genes look like {list(names)[:5]}."
        raise MissingKeyError(f"Gene `{unknown[0]!r}` is not among the {len(names):,} genes of {where}. {hint}")
    return wanted


def check_positive(value: float | None, argument: str) -> float:
    """Return `value` if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"`{argument}` must be a number, got {type(value).__name__}.")
    if not 0 < value < float("inf"):
        raise InputError(f"`{argument}` must be above 0, got {value}.")
    return value


PLAUSIBLE = (0.05, 10.0)
"""Accepted µm per pixel: 100x oil immersion has about 0.1; at 10 a nucleus is one pixel."""


def check_mpp(mpp: float | None, source: str) -> float:
    """Return µm per pixel of full resolution if they are plausible; `source` is the argument or file that has them."""
    low, high = PLAUSIBLE
    mpp = check_positive(mpp, source.strip("`"))
    if not low <= mpp <= high:
        raise InputError(
            f"{source} gives {mpp:.4g} µm per pixel; images of tissue have {low:g} to {high:g} (353 are 72 dots per "
            "inch, the default of many programs). Pass the µm per pixel of full resolution as `mpp`, 0.25 at 40x."
        )
    return mpp


MOST = 1_000_000
"""Largest number of repetitions, permutations and the like: more take days, or more memory than there is."""


def check_count(value: int, argument: str, most: float = float("inf")) -> int:
    """Return `value` if it is a whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputTypeError(f"`{argument}` must be a whole number, got {value!r}.")
    if value < 1:
        raise InputError(f"`{argument}` must be at least 1, got {value}.")
    if value > most:
        raise InputError(f"`{argument}` must be at most {most:,}, got {value:,}.")
    return int(value)


def check_seed(seed: int | None) -> int:
    """Return a random seed, by default that of the settings; raise unless numpy, torch and scikit-learn take it."""
    seed = settings.seed if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputTypeError(f"`seed` must be a whole number, got {seed!r}.")
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"`seed` must be from 0 to {MOST_SEED}, got {seed}.")
    return int(seed)


def check_path(path: str | Path, argument: str) -> Path:
    """Return a path with ``~`` expanded."""
    if not isinstance(path, str | Path):
        raise InputTypeError(f"`{argument}` must be a path, got {type(path).__name__}.")
    if "\0" in str(path):
        raise InputError(f"`{argument}` is no path: {str(path)!r} contains a null character.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # "~name" of an unknown user
        raise InputError(f"`{argument}` is in the home folder of an unknown user: {str(path)!r}.") from error


def check_text(value: str, argument: str) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise InputTypeError(f"`{argument}` must be text, got {type(value).__name__}.")
    return value


def check_same_length(a: Sized, b: Sized, names: str) -> None:
    """Raise if two arguments differ in length."""
    if len(a) != len(b):
        raise InputError(f"{names} must have the same number of rows, got {len(a)} and {len(b)}.")
