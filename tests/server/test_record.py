"""The page that records spoken questions: a real server on loopback, and Chromium with a fake microphone."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from loopback import running

from speech_rba.errors import UserError
from speech_rba.server.record import build_app, choose_questions, open_session
from speech_rba.suites.read import read_suite
from speech_rba.synthesis.voices.voices import speak
from tests.browser import chromium

SUITE = Path(__file__).parents[2] / "data/suites/spoken_qa"
QUESTIONS = choose_questions(SUITE)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Inside the block the address of the page for `folder`."""
    with running(build_app(open_session(folder, QUESTIONS), "the next step")) as address:
        yield address


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    return speak("hibari-heart", QUESTIONS[0].prompt, 1.0, 0.0)


def wav(audio: np.ndarray, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="WAV")
    return file.getvalue()


def test_ten_different_questions_with_answers_are_chosen(tmp_path):
    assert len({question.prompt for question in QUESTIONS}) == 10
    assert all(question.answers and not question.wrong for question in QUESTIONS)
    with pytest.raises(UserError, match="is missing: run the command in the project's folder"):
        choose_questions(tmp_path)


def test_recordings_become_a_suite_and_a_session_goes_on(tmp_path, spoken):
    folder = tmp_path / "my voice"
    with served(folder) as url:
        for question in QUESTIONS[:4]:
            saved = httpx.put(f"{url}/recordings/{question.id}", content=wav(spoken))
            assert saved.json()["duration_s"] == pytest.approx(len(spoken) / 16_000, abs=0.01)
    (folder / "questions.tsv").unlink()  # as when the session is killed before the table is written
    with served(folder) as url:
        state = httpx.get(f"{url}/questions").json()
        assert [row["recorded"] for row in state["questions"]] == [True] * 4 + [False] * 6
        assert len(read_suite(folder)[0]) == 4
        for question in reversed(QUESTIONS[4:]):
            assert httpx.put(f"{url}/recordings/{question.id}", content=wav(spoken)).status_code == 200
        again = httpx.get(f"{url}/recordings/{QUESTIONS[0].id}")
    assert again.headers["content-type"] == "audio/flac"
    assert soundfile.info(io.BytesIO(again.content)).samplerate == 16_000
    recordings, refused = read_suite(folder)
    assert not refused and [r.question.prompt for r in recordings] == [q.prompt for q in QUESTIONS]
    assert [r.question.answers for r in recordings] == [q.answers for q in QUESTIONS]


def test_what_is_no_recording_is_refused_and_changes_nothing(tmp_path, spoken):
    first, second = (question.id for question in QUESTIONS[:2])
    with served(tmp_path) as url:
        httpx.put(f"{url}/recordings/{first}", content=wav(spoken))
        before = (tmp_path / f"wav/{first}.flac").read_bytes()
        for content, why in ((b"no sound", "audio"), (b"", "empty"), (wav(0 * spoken), "silent")):
            answer = httpx.put(f"{url}/recordings/{first}", content=content)
            assert answer.status_code == 400 and why in answer.json()["error"]["message"]
        assert httpx.get(f"{url}/recordings/{second}").status_code == 404
        assert httpx.put(f"{url}/recordings/..%2Fa", content=wav(spoken)).status_code == 404
        other = {"origin": "http://elsewhere.org"}
        assert httpx.put(f"{url}/recordings/{second}", content=wav(spoken), headers=other).status_code == 403
        assert httpx.get(url, headers={"host": "elsewhere.org"}).status_code == 403
    assert (tmp_path / f"wav/{first}.flac").read_bytes() == before
    assert not (tmp_path / f"wav/{second}.flac").exists()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"holds thesis\.tex: name a new folder"):
        open_session(tmp_path, QUESTIONS)


def test_a_person_records_listens_and_records_again_in_a_browser(tmp_path, spoken):
    microphone, folder, errors = tmp_path / "microphone.wav", tmp_path / "voice", []
    soundfile.write(microphone, spoken, 16_000)
    first = folder / f"wav/{QUESTIONS[0].id}.flac"
    with served(folder) as url, chromium(microphone) as browser:
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        durations = []
        for button, seconds in (("Record", 2.0), ("Record again", 3.5)):
            page.get_by_role("button", name=button, exact=True).click()
            page.get_by_role("button", name="Stop").wait_for()
            page.wait_for_timeout(1000 * seconds)
            page.get_by_role("button", name="Stop").click()
            page.get_by_text("Saved:").wait_for()
            while page.evaluate("document.querySelector('#player').readyState") == 0:
                page.wait_for_timeout(50)  # the page's policy forbids `wait_for_function`
            durations.append(soundfile.info(first).duration)
        page.get_by_role("button", name="Next").click()
        assert QUESTIONS[1].prompt in page.inner_text("#prompt")
        assert page.get_by_role("button", name="Question 1, recorded").is_visible()
        fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert 1.5 < durations[0] < durations[1] and fits and not errors
    recordings, refused = read_suite(folder)
    assert [r.question.prompt for r in recordings] == [QUESTIONS[0].prompt] and not refused
