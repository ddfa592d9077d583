"""Chromium for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@contextmanager
def chromium(microphone: Path | None = None) -> Iterator:
    """Inside the block a browser, whose microphone plays a WAV file over and over; without Chromium the test
    is skipped."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page was not opened")
    from playwright.sync_api import sync_playwright

    sound = [*FAKE, f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *sound])
        yield browser
        browser.close()
