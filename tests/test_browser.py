"""The browser of the tests sees what it is there to see: a request, an error, and where it is missing, that it is."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import open_browser, open_offline

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = """
<style>@font-face {{ font-family: own; src: url({font}) }} p {{ font-family: own }}</style>
<p>text</p><img src="{image}"><script src="{script}"></script>
<script>setTimeout(() => fetch("{late}"), 100)</script>
"""
DATA = dict.fromkeys(("font", "image", "script", "late"), "data:,")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as browser:
        yield browser


def test_page_that_needs_nothing_asks_for_nothing(browser: "Browser", tmp_path: Path):
    (tmp_path / "page.html").write_text(PAGE.format(**DATA))
    assert open_offline(browser, tmp_path / "page.html") == ([], [])


@pytest.mark.parametrize(
    ("part", "address"),
    [
        ("font", "https://example.com/font"),
        ("image", "neighbour.png"),
        ("script", "http://192.0.2.1/script"),
        ("late", "http://127.0.0.1:9/late"),
    ],
)
def test_each_request_is_told(browser: "Browser", tmp_path: Path, part: str, address: str):
    (tmp_path / "page.html").write_text(PAGE.format(**DATA | {part: address}))
    requests, errors = open_offline(browser, tmp_path / "page.html")
    assert [request.endswith(address) for request in requests] == [True] and errors


@pytest.mark.parametrize(("script", "told"), [("throw Error('bad')", "bad"), ("console.error('worse')", "worse")])
def test_errors_of_a_script_are_told(browser: "Browser", tmp_path: Path, script: str, told: str):
    (tmp_path / "page.html").write_text(f"<script>{script}</script>")
    assert open_offline(browser, tmp_path / "page.html") == ([], [told])


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("required", pytest.fail.Exception)])
@pytest.mark.parametrize(
    ("module", "search", "named"), [(shutil, "which", "Chromium"), (importlib.util, "find_spec", "Playwright")]
)
def test_without_a_browser_a_test_is_skipped_and_in_ci_fails(monkeypatch, required, outcome, module, search, named):
    monkeypatch.setenv("JAXTRAIN_BROWSER", required)
    monkeypatch.setattr(module, search, lambda *_: None)
    with pytest.raises(outcome, match=f"needs .*{named}"), open_browser():
        pass
