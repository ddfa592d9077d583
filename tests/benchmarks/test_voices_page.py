"""The page of voices: every clip plays in a browser, and a differing word of its transcript is marked."""

from pathlib import Path

import pytest

from benchmarks import voices as page
from speech_rba.config import load_params
from speech_rba.synthesis.voices import voices
from tests.browser import chromium

VOICE = load_params(Path(__file__).parents[2] / "params.yaml").voice
TALKERS = [(f"espeak-en-us+{name}", "lions and rain") for name in ("f3", "f2", "f5", "m3", "m7", "Annie")]


def test_all_voices_are_shown_but_of_the_training_blends_a_selection():
    shown = page.shown_voices(VOICE)
    hidden = {*voices.VOICES} - {*shown}
    assert len(shown) == len({*shown}) and all(name.startswith("kokoro-blend") for name in hidden)
    assert {*VOICE.heldout_voices, *VOICE.validation_voices} <= {*shown}
    blends = [name for name in shown if name.startswith("kokoro-blend")]
    assert len(blends) == page.NUM_TRAINING_BLENDS + 6  # held out


def test_every_clip_plays_in_a_browser_and_wrong_words_are_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CONDITION_VOICE", "espeak-en-us")
    clips = page.plan(VOICE, ["espeak-en-us+f3", "espeak-en-us+m3"], ["clean", "babble", "telephone"])
    audio = [page.record(clip, TALKERS) for clip in clips]
    texts = [page.SENTENCE, page.SENTENCE.replace("harbour", "barber"), "", page.SENTENCE]
    (tmp_path / "voices.html").write_text(page.render(VOICE, clips, audio, texts))
    errors: list[str] = []
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 420, "height": 900})
        opened.on("console", lambda message: errors.append(message.text))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on(
            "request", lambda request: errors.append(request.url) if "http" in request.url[:5] else None
        )
        opened.goto((tmp_path / "voices.html").as_uri())
        players = "[...document.querySelectorAll('audio')]"
        opened.wait_for_function(f"{players}.every(player => player.readyState > 0)")
        durations = opened.evaluate(f"{players}.map(player => player.duration)")
        marked = opened.locator("mark").all_inner_texts()
        names = opened.locator("h3").all_inner_texts()
        rates = opened.locator("article small").all_inner_texts()
        fits = opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert durations == pytest.approx([len(samples) / 16_000 for samples in audio], abs=0.1)
    assert names == ["espeak-en-us+f3", "espeak-en-us+m3", "babble", "telephone"]
    assert marked == ["barber"] and rates == ["WER 0 %", "WER 6 %", "WER 100 %", "WER 0 %"]
    assert fits and not errors
