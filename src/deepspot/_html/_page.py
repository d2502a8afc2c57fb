"""The page of reports that are one file: no scripts, nothing from the network."""

from __future__ import annotations

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
