import pytest
from jinja2 import UndefinedError

from deepspot._core.html import PACKAGE, _templates, check_file, decimal, render, split_code


def macro(name):
    return getattr(_templates().get_template("_core/macros.html.j2").module, name)


def test_text_is_escaped_and_backticks_become_code():
    assert macro("code")("a `b <c>` & `d`") == "a <code>b &lt;c&gt;</code> &amp; <code>d</code>"
    assert split_code("a ` b") == ["a ` b"]


def test_tables_escape_their_cells():
    assert "<td>&lt;i&gt;</td>" in macro("table")(["a & b"], [["<i>"]])
    assert "<th>a &amp; b</th>" in macro("table")(["a & b"], [])


def test_templates_compile_and_raise_for_missing_values():
    pages = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.html.j2")]
    assert {"_core/page.html.j2", "_demo/demo.html.j2", "_report/slide.html.j2"} <= set(pages)
    for page in pages:
        _templates().get_template(page)
    with pytest.raises(UndefinedError, match="slides"):
        render("_demo/demo.html.j2")


def test_a_page_inside_a_store_is_refused(tmp_path):
    (tmp_path / "zarr.json").touch()
    with pytest.raises(ValueError, match="is inside the store"):
        check_file(tmp_path / "report.html")


def test_formats_of_numbers():
    assert [decimal(-0.126), decimal(float("nan")), decimal(float("nan"), "undefined")] == [
        "−0.13",
        "unknown",
        "undefined",
    ]
