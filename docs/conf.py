"""Configuration of the docs. `DEEPSPOT_DOCS_OFFLINE=1` builds them without any network."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from _llms import llms_text  # noqa: E402

# Pages of names that are gone would stay behind and break the build.
shutil.rmtree(HERE / "generated", ignore_errors=True)

project = "deepspot"
author = "The deepspot developers"
project_copyright = f"2026, {author}"
version = release = installed("deepspot")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"  # docstrings write names in single backticks

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included files start at the level that suits them

OFFLINE = os.environ.get("DEEPSPOT_DOCS_OFFLINE", "0") not in ("", "0")
intersphinx_mapping = (
    {}
    if OFFLINE
    else {
        "python": ("https://docs.python.org/3", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable", None),
        "spatialdata_io": ("https://spatialdata.scverse.org/projects/io/en/stable", None),
    }
)

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"deepspot {release}"
html_theme_options = {"show_toc_level": 2, "use_fullscreen_button": False, "navbar_persistent": []}


def prose_returns(self: NumpyDocstring, section: str) -> list[str]:
    """Render "Returns" as the prose that the docstrings hold, not as a list of types."""
    lines = self._format_block(":returns: ", self._dedent(self._consume_to_next_section()))
    return [*lines, ""] if lines and lines[-1] else lines


def attributes(self: NumpyDocstring, section: str) -> list[str]:
    """Let several attributes share a description ("mean, std"), as parameters may."""
    fields = self._consume_fields(multiple=True)
    typed = [(name, kind or self._lookup_annotation(name), text) for name, kind, text in fields]
    return self._format_docutils_params(typed, field_role="ivar", type_role="vartype")


def describe_settings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show the fields of the settings object, which autodoc takes for a plain value."""
    if name == "deepspot.settings":
        doc = inspect.cleandoc(type(obj).__doc__ or "").splitlines()
        lines[:] = str(NumpyDocstring(doc, app.config, app, "class", name, obj, options)).splitlines()


def plain_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Leave out the types of fields, which pydantic gives with its validators: the description has them."""
    if what != "class" or not issubclass(obj, BaseModel):
        return None
    fields = inspect.signature(obj).parameters.values()
    return str(inspect.Signature([field.replace(annotation=field.empty) for field in fields])), None


def write_llms(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        (Path(app.outdir) / "llms.txt").write_text(llms_text(HERE), encoding="utf-8")


def setup(app: Sphinx) -> None:
    NumpyDocstring._parse_returns_section = prose_returns
    NumpyDocstring._parse_attributes_section = attributes
    app.connect("autodoc-process-docstring", describe_settings, priority=900)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("build-finished", write_llms)
