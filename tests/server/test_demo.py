"""A person talks to every system on the page, in a real browser with a fake microphone, and rates answers."""

import http.client
import json
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch
from loopback import flac, running
from peft import LoraConfig, get_peft_model
from playwright.sync_api import Page, expect

from speech_rba.model.audio_tower import Word
from speech_rba.model.student import Student
from speech_rba.records import Feedback, read_jsonl
from speech_rba.server import systems
from speech_rba.server.demo import build_demo
from speech_rba.server.student import Prompt
from speech_rba.synthesis.feedback import by_content, feedback_prompts
from tests.browser import chromium

SECONDS = 120_000  # ms; the machine may be busy


@pytest.fixture(scope="module")
def folder(small_student, tmp_path_factory):
    """A run's folders: base, and a method whose adapter takes part in every answer and changes it."""
    folder = tmp_path_factory.mktemp("run")
    student = Student(small_student.config).eval()
    student.save_pretrained(folder / "base")
    torch.manual_seed(0)
    model = get_peft_model(student, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder / "align/sft")
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return systems.load_systems(folder / "base", folder / "align")


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback") / "feedback.jsonl"


@pytest.fixture(scope="module")
def address(loaded, feedback):
    with running(build_demo(loaded, feedback, max_upload_bytes=3_000_000)) as address:
        yield address


@pytest.fixture(scope="module")
def page(address, spoken, tmp_path_factory):
    """The page in a browser whose microphone plays the spoken question over and over."""
    recording = tmp_path_factory.mktemp("microphone") / "question.wav"
    pause = np.zeros(16_000, np.float32)
    soundfile.write(recording, np.concatenate([pause[:4000], spoken, pause]), 16_000, subtype="PCM_16")
    with chromium(recording) as browser:
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.goto(address)
        yield page


def post(address: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=300)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def status(page: Page, state: str) -> None:
    expect(page.locator(f'#status[data-state="{state}"]')).to_be_visible(timeout=SECONDS)


def test_all_systems_answer_a_recording_in_turn(loaded, spoken):
    transcript, *answered = systems.answers(loaded, spoken)
    assert transcript["transcript"] == "What is the capital of France?"
    assert [each["system"] for each in answered] == ["cascade", "base", "sft"]
    cascade, base, sft = answered
    assert cascade["transcript"] == transcript["transcript"] and cascade["answer"] == base["answer"]
    assert sft["answer"] != base["answer"] and not sft["shared"]
    assert all(each["seconds"] > 0 for each in answered)
    assert loaded.aligned.adapter is None, "the adapter is taken off again"


def test_a_method_whose_adapter_takes_no_part_shares_the_answer_of_base(loaded, spoken, monkeypatch):
    monkeypatch.setattr(loaded.aligned.student.config, "adapter_min_asr_uncertainty", 0.5)
    _, _, base, sft = systems.answers(loaded, spoken)
    assert sft["shared"] and sft["answer"] == base["answer"]


def test_a_question_by_microphone_is_played_back_transcribed_answered_and_rated(page, feedback):
    page.get_by_role("button", name="Record a question").press("Enter")
    status(page, "recording")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(3000)
    page.locator("#record").press("Enter")
    status(page, "done")
    expect(page.locator("#transcript")).to_contain_text("capital of France")
    assert page.locator("#answers h3").all_inner_texts() == ["cascade", "base", "sft"]
    assert all(text for text in page.locator("#answers .answer").all_inner_texts())
    expect(page.locator("#player")).to_be_visible()
    expect(page.locator("#player")).not_to_have_js_property("readyState", 0)  # the browser can play it
    page.get_by_role("button", name="The answer of sft is good").click()
    expect(page.locator("#saved")).to_have_text("The rating of sft is saved.")
    [row] = read_jsonl(feedback, Feedback)
    assert row.system == "sft" and row.thumb == "up" and row.audio is None
    assert "capital of France" in row.transcript and set(row.answers) == {"cascade", "base", "sft"}
    assert list(feedback.parent.iterdir()) == [feedback], "no recording is kept"
    page.get_by_role("button", name="The answer of sft is good").click()  # taken back
    expect(page.locator("#saved")).to_have_text("The rating of sft is taken back.")
    assert feedback_prompts(by_content(feedback)) == []


def test_a_file_is_answered_and_kept_where_the_box_is_ticked(page, feedback, spoken):
    page.set_input_files("#file", {"name": "q.flac", "mimeType": "audio/flac", "buffer": flac(spoken)})
    status(page, "done")
    page.get_by_label("Keep the recording").check()
    page.get_by_role("button", name="The answer of base is bad").click()
    expect(page.locator("#saved")).to_have_text("The rating of base is saved.")
    row = read_jsonl(feedback, Feedback)[-1]
    audio, rate = soundfile.read(feedback.parent / row.audio)
    assert rate == 16_000 and len(audio) == len(spoken)
    assert feedback_prompts(by_content(feedback)) == ["What is the capital of France?"]


def test_what_is_no_audio_is_an_error_on_the_page(page):
    page.set_input_files("#file", {"name": "q.wav", "mimeType": "audio/wav", "buffer": b"no sound"})
    status(page, "error")
    expect(page.locator("#status")).to_contain_text("no readable audio file")
    expect(page.get_by_role("button", name="Record a question")).to_be_enabled()


def test_a_recording_without_speech_is_a_state_of_its_own(page, monkeypatch, spoken):
    monkeypatch.setattr(systems, "build_prompt", lambda *_: Prompt(None, 0, "", (), "silence"))
    page.set_input_files("#file", {"name": "q.flac", "mimeType": "audio/flac", "buffer": flac(spoken)})
    status(page, "nothing")
    expect(page.locator("#transcript")).to_have_text("(nothing: silence)")


def test_uncertain_words_are_marked_and_said_to_be_uncertain(page, monkeypatch, spoken):
    real, words = systems.build_prompt, (Word("What", 0.99), Word("<b>France", 0.4))

    def uncertain(student, parts):
        prompt = real(student, parts)
        return Prompt(prompt.prompt, prompt.num_tokens, prompt.hypothesis, words)

    monkeypatch.setattr(systems, "build_prompt", uncertain)
    page.set_input_files("#file", {"name": "q.flac", "mimeType": "audio/flac", "buffer": flac(spoken)})
    status(page, "done")
    expect(page.locator("#transcript mark")).to_have_text("<b>France (uncertain, 40 %)")
    expect(page.locator("#legend")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/ask", {"Host": "evil.example"}),
        ("/ask", {"Origin": "http://evil.example"}),
        ("/feedback", {"Origin": "null"}),
    ],
)
def test_another_site_reaches_nothing(address, path, headers):
    assert post(address, path, b"{}", **headers)[0] == 403


@pytest.mark.parametrize(
    ("rating", "code"),
    [
        ({}, 400),
        ({"id": "../../etc/x", "system": "base", "thumb": "up", "audio": True}, 400),
        ({"id": "0" * 32, "system": "base", "thumb": "up", "audio": False}, 404),
    ],
)
def test_a_rating_of_nothing_is_refused(address, rating, code):
    assert post(address, "/feedback", json.dumps(rating).encode())[0] == code


def test_an_upload_above_the_limit_is_refused(address):
    assert post(address, "/ask", b"x" * 3_000_001)[0] == 413
