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


def write_inputs(small_student, speech) -> None:
    """Two readable test clips, one unreadable, and a degraded training clip; and the student."""
    Path("voice/clips").mkdir(parents=True)
    clips = [clip(number) for number in range(3)]
    for c, audio in zip(clips, speech, strict=False):
        soundfile.write(f"voice/{c.path}", audio, 16_000)
    Path("voice/clips/c2.flac").write_bytes(b"no audio")
    degraded = {"id": "c3", "split": "train", "condition": "babble"}
    write_jsonl(Path("voice/manifest.jsonl"), [*clips, clips[0].model_copy(update=degraded)])
    small_student.save_pretrained(Path("base"))


def run(out: str) -> None:
    features.run(load_params(ROOT / "params.yaml"), Path("voice"), Path("base"), Path(out))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_student, speech) -> Path:
    """The folder of one whole run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs(small_student, speech)
        run("out")
    return folder


def test_every_clip_is_transcribed_and_measured(whole, audio_tower):
    table = read_jsonl(whole / "out/table.jsonl", Feature)
    assert [f.clip_id for f in table] == ["c0", "c1", "c2", "c3"]
    assert table[0].judge_hypothesis == table[0].student_hypothesis == TEXTS[0] and table[0].wer == 0
    assert table[2].duration_s == 0 and table[2].silence_share == 1
    assert table[3].student_hypothesis == TEXTS[0]
    assert table[3].judge_hypothesis is None and table[3].wer is None  # no stage needs them
    hypotheses = load_hypotheses(whole / "out/hypotheses.safetensors", [0, 1, 2])
    assert audio_tower.text(hypotheses[1].token_ids.tolist()) == table[1].judge_hypothesis
    assert hypotheses[0].top_probs.shape == (len(hypotheses[0].token_ids), 1)
    report = json.loads((whole / "out/report.json").read_text())
    assert list(report["ms_per_clip"]) == ["judge"]  # without an ASR adapter it is the student too
    assert not list((whole / "work/features").iterdir())


def test_a_resumed_run_transcribes_no_round_again(
    whole, tmp_path, monkeypatch, small_student, audio_tower, speech
):
    transcribe_round, rounds = features.transcribe_round, []

    def stop_at_the_second(transcribe_batch, voice, clips, path):
        rounds.append(path.name)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        transcribe_round(transcribe_batch, voice, clips, path)

    monkeypatch.chdir(tmp_path)
    write_inputs(small_student, speech)
    monkeypatch.setattr(features, "transcribe_round", stop_at_the_second)
    monkeypatch.setattr(features, "load_student", lambda base: small_student)
    monkeypatch.setattr(features, "load_audio_tower", lambda name, asr_adapter: audio_tower)
    with pytest.raises(KeyboardInterrupt):
        run("out")
    run("out")
    assert rounds == ["judge-exact-000000.safetensors", *["judge-fast-000000.safetensors"] * 2]
    for name in ("table.jsonl", "hypotheses.safetensors"):
        assert Path("out", name).read_bytes() == (whole / "out" / name).read_bytes()


def test_the_hypothesis_of_a_clip_does_not_depend_on_its_batch(small_student):
    clips = [speak("espeak-en-us+f3", text, 1.0, 0.0) for text in (TEXTS[0], TEXTS[1] * 2, TEXTS[2])]
    together, texts = small_student.encode_audio([*clips, *clips[::-1]])
    for place, audio in enumerate(clips):
        (alone,), (text,) = small_student.encode_audio([audio])
        for other in (place, 5 - place):
            assert texts[other] == text
            assert torch.equal(together[other].ids, alone.ids)
            assert torch.allclose(together[other].weights, alone.weights, atol=1e-4)
