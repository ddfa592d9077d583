"""Recording with the real engines: silence stays silent, the same bytes in any process and order, valid
ids."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import load_params
from speech_rba.errors import UserError
from speech_rba.records import Clip
from speech_rba.synthesis import record_clips
from speech_rba.synthesis.conditions import CONDITIONS
from speech_rba.synthesis.plan_clips import plan_rows
from speech_rba.synthesis.voices import voices
from tests.synthesis.test_plan_clips import row

VOICE = load_params(Path(__file__).parents[2] / "params.yaml").voice
STRENGTH = {"snr_db": 0.0, "rt60_s": 0.9, "drive_db": 20.0, "cutoff_hz": 1000.0, "lost_share": 0.2}


@pytest.fixture
def talkers(tmp_path) -> list[tuple[str, str]]:
    (tmp_path / "topics.txt").write_text("lions\nrain\nbread\n")
    return voices.plan_talkers(VOICE, tmp_path)


def plan(*texts: str) -> list[list[Clip]]:
    rows = [row(i, "test", text) for i, text in enumerate(texts)]
    return plan_rows(VOICE, voices.training_voices(VOICE), rows)


@pytest.mark.parametrize("name", ["hibari-heart", "piper-joe", "espeak-en-us"])
def test_a_text_without_words_gives_a_silent_clip_in_every_condition(name, tmp_path, talkers):
    clip = plan("")[0][0].model_copy(update={"voice": name, "strength": STRENGTH})
    clips = [clip.model_copy(update={"id": f"r0-{c}", "condition": c}) for c in CONDITIONS]
    new, silent = record_clips.record(clips, tmp_path, talkers)
    assert new == {clip.id for clip in clips}
    assert [clip.condition for clip in silent] == list(CONDITIONS)
    assert max(clip.duration_s for clip in silent) < 1.7  # two pauses of 0.3 s and an echo of 0.9 s
    assert not any(soundfile.read(tmp_path / f"{clip.id}.flac")[0].any() for clip in silent)


def test_a_clip_has_the_same_bytes_in_any_process_and_order(tmp_path, talkers):
    speeches = plan("What is it?", "Who was here?", "Why so?")
    for name in ("pool", "alone"):
        (tmp_path / name).mkdir()
    recorded, made = record_clips.record_all(speeches, talkers, tmp_path / "pool")
    record_alone = partial(record_clips.record, folder=tmp_path / "alone", talkers=talkers)
    alone = [clip for speech in reversed(speeches) for clip in record_alone(speech)[1]]
    assert made == {clip.id for clip in recorded} and len(recorded) == 3 * 4
    assert {clip.id: clip.sha256 for clip in recorded} == {clip.id: clip.sha256 for clip in alone}
    assert record_clips.record_all(speeches[:1], talkers, tmp_path / "pool") == (recorded[:4], set())


def test_no_speaker_is_in_its_own_background(monkeypatch, talkers):
    speech = np.ones(1600, np.float32)
    clip = plan("Why?")[0][0].model_copy(update={"condition": "babble", "strength": STRENGTH})
    background = set()

    def talk(voice: str, _text: str) -> np.ndarray:
        background.add(voice)
        return speech

    monkeypatch.setattr(voices, "talk", talk)
    for seed in range(20):
        for voice in ("hibari-heart", "piper-joe"):
            background.clear()
            spoken = clip.model_copy(update={"voice": voice, "seed": seed})
            record_clips.in_condition(speech, spoken, talkers)
            assert len(background) == 6 and voice not in background


@pytest.mark.parametrize(("ids", "wrong"), [(["../r0-0"], "../r0-0"), (["r0-0", "r0-0"], "r0-0")])
def test_an_id_that_is_no_file_name_or_occurs_twice_is_an_error(ids, wrong):
    with pytest.raises(UserError, match=f"clip id '{re.escape(wrong)}' must be unique"):
        record_clips.check_ids(ids)
