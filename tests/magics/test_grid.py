"""A table of words in three forms."""

from __future__ import annotations

import pytest

from colab_magics.magics.grid import Grid, Page, chart_html

pytestmark = [pytest.mark.face, pytest.mark.colab]

GRID = Grid(("place", "empty", "price"), (("here", "", "free"), ("over | there", "", "$12.00")), off=[1])
PAGE = Page("A <b>job</b>", ["one line"], [GRID], ["as of today"])


def test_text_is_aligned_and_a_column_without_a_word_is_left_out() -> None:
    assert PAGE.text().split("\n\n")[1].splitlines() == [
        "place         price",
        "here          free",
        "over | there  $12.00",
    ]


def test_markdown_is_a_table_whose_bars_are_escaped() -> None:
    table = PAGE.markdown().split("\n\n")[2]
    assert table.splitlines() == [
        "| place | price |",
        "| --- | --- |",
        "| here | free |",
        "| over \\| there | $12.00 |",
    ]
    assert PAGE.markdown().startswith("## A \\<b\\>job")


def test_html_is_escaped_and_self_contained() -> None:
    html = PAGE.bundle()["text/html"]
    assert "<b>" not in html
    assert "&lt;b&gt;job" in html
    assert 'scope="col"' in html
    assert not any(word in html for word in ("<script", "http", "src="))
    assert html.count("<tr") == 3
    assert html.count('class="cm-off"') == 1


def test_secrets_and_control_characters_do_not_come_through() -> None:
    page = Page("\x1b[31mred", ["token hf_" + "a" * 34])
    for said in (page.text(), page.html(), page.markdown()):
        assert "\x1b" not in said
        assert "hf_aaaa" not in said


def test_no_notebook_sets_what_a_model_says_of_dollars_as_mathematics() -> None:
    """JupyterLab and Colab look for $…$ in all HTML but that of these classes."""
    assert PAGE.html().startswith('<div class="cm-grid tex2jax_ignore mathjax_ignore">')
    assert 'class="cm-grid tex2jax_ignore mathjax_ignore"' in chart_html("Loss in $", "")
