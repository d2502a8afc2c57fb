"""The page of reports that are one file: no scripts, nothing from the network."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

STYLE = """  :root { --ink: #1d2733; --soft: #5b6875; --line: #d9dfe5; --blue: #0072B2; --warm: #fff4e5; }
  body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
         max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
  h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .6rem; }
  h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; }
  p, li { max-width: 46rem; }
  .lead { font-size: 1.1rem; }
  .limits { background: var(--warm); border-left: 4px solid #D55E00; padding: .8rem 1.1rem; margin: 1.4rem 0; }
  .limits p { margin: .2rem 0; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: .6rem 0; }
  th, td { text-align: right; padding: .35rem .8rem; border-bottom: 1px solid var(--line); }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  th { font-weight: 600; border-bottom: 2px solid var(--ink); }
  .facts th { border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; text-align: left;
              padding-left: 0; }
  .facts td { text-align: left; overflow-wrap: anywhere; }
  figure { margin: 1.2rem 0; }
  figure img { max-width: 100%; height: auto; display: block; }
  figcaption { color: var(--soft); font-size: .92rem; }
  .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
  pre { background: #f4f6f8; padding: .8rem 1rem; overflow-x: auto; font-size: .9rem; }
  code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; }
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
$body</body>
</html>
""")


def page(title: str, body: str, *, style: str = "") -> str:
    """Put a page together.

    Parameters
    ----------
    title, body
        HTML; whatever comes from users or files is escaped already.
    style
        CSS besides that of all reports.
    """
    return _PAGE.substitute(title=title, body=body, style=STYLE + style)


def embed(image: bytes | Path) -> str:
    """Turn a PNG, or the file that holds it, into the address of an image that is inside the page."""
    content = image if isinstance(image, bytes) else image.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def figure(image: bytes | Path, caption: str) -> str:
    """Figure with a caption, which readers who cannot see it get too."""
    text = escape(caption)
    return f'<figure><img alt="{text}" src="{embed(image)}"><figcaption>{text}</figcaption></figure>'


def facts(rows: Mapping[str, str]) -> str:
    """Two columns: name and text; the text is HTML."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{text}</td></tr>" for name, text in rows.items())
    return f'<div class="scroll"><table class="facts">{cells}</table></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """Table with a head; of numbers, which are flush right, or of text."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    opening = '<table class="text">' if text else "<table>"
    return f'<div class="scroll">{opening}{"".join(lines)}</table></div>'


def _row(cell: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in texts) + "</tr>"


def check_file(path: str | Path, *, overwrite: bool = False, option: str = "overwrite=True") -> Path:
    """Raise unless a page may be written here.

    Parameters
    ----------
    path
        Of the page.
    overwrite
        Whether a file of that name may be replaced.
    option
        How the user says so, for the message.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    FileExistsError
        If the file exists, or is a folder.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} to write {path.name!r} into. Make it first, or choose another."
        )
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a folder. Pass the name of a file, such as 'report.html'.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Choose another name, or pass `{option}`.")
    return path


def write_file(path: Path, text: str) -> Path:
    """Write a page under another name first, so that a run that is stopped leaves no half of it."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(scratch).chmod(0o666 & ~umask)  # temporary files can be read by nobody else
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return path
