"""A real browser that reaches nobody but this machine, and photographs of what it shows."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from bed import ROOT

PATIENCE = 120_000
"""Milliseconds that a page gets on a busy machine, for each thing that is waited for."""
MOST_BYTES = 250 * 1024
TEXT_ABOVE = """height => {
    const seen = [];
    const add = (place, text) => {
        const box = place.getBoundingClientRect();
        if (box.bottom > 0 && box.top < height) seen.push(text);
    };
    const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (nodes.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(nodes.currentNode);
        add(range, nodes.currentNode.data);
    }
    for (const field of document.querySelectorAll("input, textarea")) add(field, field.value);
    return seen.join("\\n");
}"""


@dataclass
class Browser:
    """Chromium without a window.

    Args:
        chromium: of Playwright.
        folder: of photographs; SCREENSHOTS in the environment names one that stays.
        spare: takes what a page showed when a test failed on it.
        never: what no photograph may show.
        refused: hosts elsewhere that pages have asked for, in vain.
        requests: addresses that the page opened last has asked for.
        credentials: what is typed in where a server has the browser ask for a password.
    """

    chromium: Any
    folder: Path
    spare: Path
    never: Sequence[str]
    refused: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    credentials: dict[str, str] | None = None

    @contextmanager
    def page(self, **options: Any) -> Iterator[Any]:
        """Open a page with cookies of its own; say what it showed if something goes wrong."""
        window = {"viewport": {"width": 1280, "height": 960}}
        context = self.chromium.new_context(http_credentials=self.credentials, **(window | options))
        context.set_default_timeout(PATIENCE)
        self.requests.clear()
        context.route("**/*", self._decide)
        page = context.new_page()
        try:
            yield page
        except BaseException as error:
            picture = self.spare / "failed.png"
            page.screenshot(path=picture)
            said = page.inner_text("body")[:3000]
            error.add_note(f"at {page.url}, see {picture}; it said:\n{said}")
            raise
        finally:
            context.close()

    def _decide(self, route: Any) -> None:
        url = route.request.url
        self.requests.append(url)
        host = urlsplit(url).hostname
        if host in (None, "127.0.0.1"):  # none: a file
            route.continue_()
        else:
            self.refused.add(host)
            route.abort()

    def photograph(self, page: Any, name: str, until: Any = None) -> None:
        """Keep what the page shows, in at most 256 colours.

        Args:
            page: as it is now; it shows no secret and no folder of this machine.
            name: of the file.
            until: element with which the picture ends; all that fits the window if not given.
        """
        size = dict(page.viewport_size)
        if until is not None:
            box = until.bounding_box()
            size["height"] = min(size["height"], round(box["y"] + box["height"]) + 12)
        taken = page.screenshot(clip={"x": 0, "y": 0, **size}, animations="disabled")
        path = self.folder / f"{name}.png"
        with Image.open(BytesIO(taken)) as image:
            colours = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            colours.save(path, optimize=True)
        assert path.stat().st_size <= MOST_BYTES
        shown = page.evaluate(TEXT_ABOVE, size["height"])
        found = [word for word in self.never if word in shown]
        assert not found, f"{name}.png shows {found}"


@contextmanager
def browser(spare: Path, never: Sequence[str]) -> Iterator[Browser]:
    """Start Chromium; the test skips where it or Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    folder = Path(os.environ.get("SCREENSHOTS") or spare)
    folder.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield Browser(chromium, folder, spare, [str(ROOT), *never])
        finally:
            chromium.close()
