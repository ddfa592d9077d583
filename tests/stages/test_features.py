"""Every clip of a manifest is transcribed and measured; an unreadable file gives an empty hypothesis, and
whole rounds are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speech_rba.config import load_params
from speech_rba.model.hypotheses import load_hypotheses
from speech_rba.records import Clip, Feature, read_jsonl, write_jsonl
from speech_rba.stages import features
from speech_rba.synthesis.voices.voices import speak

ROOT = Path(__file__).parents[2]
TEXTS = ["What is the capital of France?", "Tell me about the river, please.", "Nobody can read this."]


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """The first two texts, spoken by the neural voice."""
    return [speak("hibari-heart", text, 1.0, 0.0) for text in TEXTS[:2]]


def clip(number: int) -> Clip:
    return Clip(
        id=f"c{number}",
        row_id=f"r{number}",
        suite="alignment",
        split="test",
        path=f"clips/c{number}.flac",
        transcript=TEXTS[number],
        spoken="x",
        voice="hibari-heart",
        engine="hibari",
        heldout_voice=False,
        rate=1,
        pitch_semitones=0,
        level_db=-20,
        condition="clean",
        strength={},
        heldout_condition=False,
        seed=0,
        duration_s=2 - number,
        sha256="",
    )


@pytest.fixture
def params(tmp_path, monkeypatch, small_student, speech):
    """The parameters; the working directory holds two readable test clips, one unreadable, and a degraded
    training clip."""
    monkeypatch.chdir(tmp_path)
    Path("voice/clips").mkdir(parents=True)
    clips = [clip(number) for number in range(3)]
    for c, audio in zip(clips, speech, strict=False):
        soundfile.write(f"voice/{c.path}", audio, 16_000)
    Path("voice/clips/c2.flac").write_bytes(b"no audio")
    degraded = {"id": "c3", "split": "train", "condition": "babble"}
    write_jsonl(Path("voice/manifest.jsonl"), [*clips, clips[0].model_copy(update=degraded)])
    small_student.save_pretrained(Path("base"))
    return load_params(ROOT / "params.yaml")


def test_every_clip_is_transcribed_and_measured(params, audio_tower):
    features.run(params, Path("voice"), Path("base"), Path("out"))
    table = read_jsonl(Path("out/table.jsonl"), Feature)
    assert [f.clip_id for f in table] == ["c0", "c1", "c2", "c3"]
    assert table[0].judge_hypothesis == table[0].student_hypothesis == TEXTS[0] and table[0].wer == 0
    assert table[2].duration_s == 0 and table[2].silence_share == 1
    assert table[3].student_hypothesis == TEXTS[0]
    assert table[3].judge_hypothesis is None and table[3].wer is None  # no stage needs them
    hypotheses = load_hypotheses(Path("out/hypotheses.safetensors"), [0, 1, 2])
    assert audio_tower.text(hypotheses[1].token_ids.tolist()) == table[1].judge_hypothesis
    assert hypotheses[0].top_probs.shape == (len(hypotheses[0].token_ids), 1)
    report = json.loads(Path("out/report.json").read_text())
    assert list(report["ms_per_clip"]) == ["student"]  # without an ASR adapter it is its own judge
    assert not list(Path("work/features").iterdir())


def test_a_resumed_run_transcribes_no_round_again(params, monkeypatch):
    transcribe_round, rounds = features.transcribe_round, []

    def stop_at_the_second(transcribe_batch, voice, clips, path):
        rounds.append(path.name)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        transcribe_round(transcribe_batch, voice, clips, path)

    monkeypatch.setattr(features, "transcribe_round", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        features.run(params, Path("voice"), Path("base"), Path("out"))
    features.run(params, Path("voice"), Path("base"), Path("out"))
    assert rounds == ["student-exact-000000.safetensors", *["student-fast-000000.safetensors"] * 2]
    features.run(params, Path("voice"), Path("base"), Path("again"))
    for name in ("table.jsonl", "hypotheses.safetensors"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()


def test_the_hypothesis_of_a_clip_does_not_depend_on_its_batch(small_student):
    clips = [speak("espeak-en-us+f3", text, 1.0, 0.0) for text in (TEXTS[0], TEXTS[1] * 2, TEXTS[2])]
    together, texts = small_student.encode_audio([*clips, *clips[::-1]])
    for place, audio in enumerate(clips):
        (alone,), (text,) = small_student.encode_audio([audio])
        for other in (place, 5 - place):
            assert texts[other] == text
            assert torch.equal(together[other].ids, alone.ids)
            assert torch.allclose(together[other].weights, alone.weights, atol=1e-4)
