"""Chromium for the tests: what is on a page, what the page asks of the network, and what its console complains of.

Imports Playwright inside the functions; it drives the Chromium of this machine and downloads none. The fact that
surprises: its client keeps an event loop running in its thread, where neither a second client nor Orbax can start. So a
module of tests opens one browser, and trains in another process.
"""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_HOSTS = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # for what Chromium asks of its own accord
PATIENCE = 60_000  # ms; a page of TensorBoard takes one second on an idle core, twenty among ten busy processes


@dataclass(frozen=True)
class Visit:
    """A page that is open, and what has happened on it."""

    page: "Page"
    refused: list[str] = field(default_factory=list)  # addresses that it asked for beyond its own
    errors: list[str] = field(default_factory=list)  # of its console, and exceptions that nothing caught


class Offline(NamedTuple):
    """What a page did that was given nothing but its own file."""

    requests: list[str]
    errors: list[str]


@contextlib.contextmanager
def open_browser() -> Iterator["Browser"]:
    """A Chromium without a window. Where it or Playwright is missing the test is skipped, and with
    JAXTRAIN_BROWSER=required it fails."""
    executable = _chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as client, client.chromium.launch(executable_path=executable, args=[NO_HOSTS]) as browser:
        yield browser


@contextlib.contextmanager
def visit(browser: "Browser", address: str) -> Iterator[Visit]:
    """A page that remembers nothing of others, and is refused all that does not begin with `address`."""
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        seen = Visit(page)
        page.route(lambda url: not url.startswith((address, "data:", "blob:")), lambda route: _refuse(route, seen))
        page.on("console", lambda message: message.type == "error" and seen.errors.append(message.text))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.goto(address)
        yield seen


def open_offline(browser: "Browser", path: Path) -> Offline:
    """What the HTML file at `path` asks for beyond itself, all of it refused, and what its console complains of."""
    with visit(browser, path.resolve().as_uri()) as seen:
        seen.page.wait_for_load_state("networkidle")
        return Offline(seen.refused, seen.errors)


def screenshot(page: "Page", name: str) -> None:
    """NAME.png in $JAXTRAIN_SCREENSHOTS, for a person to look at; nothing where that is not set."""
    folder = os.environ.get("JAXTRAIN_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def _refuse(route: "Route", seen: Visit) -> None:
    seen.refused.append(route.request.url)
    route.abort()


def _chromium() -> str:
    """Where it is; without it or Playwright there is no test."""
    found = next((path for path in map(shutil.which, NAMES) if path), "")
    wanting = [] if found else ["Chromium (on Debian: apt install chromium)"]
    if importlib.util.find_spec("playwright") is None:
        wanting += ["Playwright (pip install playwright)"]
    if wanting:
        reason = f"this test looks at a page, for which it needs {' and '.join(wanting)}"
        pytest.fail(reason) if os.environ.get("JAXTRAIN_BROWSER") == "required" else pytest.skip(reason)
    return found
