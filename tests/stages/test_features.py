"""What is heard and measured on real speech; a file that is no audio is heard as nothing, and rounds are kept."""

import json
from pathlib import Path

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


def write_inputs(student) -> None:
    Path("voice/clips").mkdir(parents=True)
    clips = [
        Clip(id=f"c{i}", row_id=f"r{i}", suite="alignment", split="test", path=f"clips/c{i}.flac", transcript=text,
             voice="hibari-heart", engine="hibari", heldout_voice=False, rate=1, pitch_semitones=0, level_db=-20,
             condition="clean", strength={}, heldout_condition=False, spoken="x", seed=0, duration_s=2 - i, sha256="")
        for i, text in enumerate(TEXTS)
    ]  # fmt: skip
    clips.append(clips[0].model_copy(update={"id": "c3", "split": "train", "condition": "babble"}))
    for clip in clips[:2]:
        soundfile.write(f"voice/{clip.path}", speak("hibari-heart", clip.transcript, 1.0, 0.0), 16_000)
    Path("voice/clips/c2.flac").write_bytes(b"no audio")
    write_jsonl(Path("voice/manifest.jsonl"), clips)
    student.save_pretrained(Path("base"))


def test_every_clip_is_measured(tmp_path, monkeypatch, student):
    monkeypatch.chdir(tmp_path)
    write_inputs(student)
    params = load_params(ROOT / "params.yaml")
    features.run(params, Path("voice"), Path("base"), Path("out"))
    table = read_jsonl(Path("out/table.jsonl"), Feature)
    assert [f.clip_id for f in table] == ["c0", "c1", "c2", "c3"]
    assert table[0].judge_hypothesis == table[0].student_hypothesis == TEXTS[0] and table[0].wer == 0
    assert table[2].duration_s == 0 and table[2].silence_share == 1
    assert (
        table[3].judge_hypothesis is None and table[3].wer is None and table[3].student_hypothesis == TEXTS[0]
    )  # nobody asks
    kept = load_hypotheses(Path("out/hypotheses.safetensors"), [0, 1, 2])
    assert student.audio_tower.text(kept[1].token_ids.tolist()) == table[1].judge_hypothesis
    assert kept[0].top_probs.shape == (len(kept[0].token_ids), student.config.soft_top_k)

    assert list(json.loads(Path("out/report.json").read_text())["ms_per_clip"]) == [
        "student"
    ]  # no asr_adapter of its own
    assert not list(Path("work/features").iterdir())


def test_a_stopped_run_hears_no_round_again(tmp_path, monkeypatch, student):
    monkeypatch.chdir(tmp_path)
    write_inputs(student)
    params, transcribe_round, hypotheses = load_params(ROOT / "params.yaml"), features.transcribe_round, []

    def counted(encode_audio, voice, clips, path):
        hypotheses.append(path.name)
        if len(hypotheses) == stop_at:
            raise KeyboardInterrupt
        transcribe_round(encode_audio, voice, clips, path)

    monkeypatch.setattr(features, "transcribe_round", counted)
    stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        features.run(params, Path("voice"), Path("base"), Path("out"))
    stop_at = None
    features.run(params, Path("voice"), Path("base"), Path("out"))
    assert hypotheses == ["student-exact-000000.safetensors", *["student-fast-000000.safetensors"] * 2]
    features.run(params, Path("voice"), Path("base"), Path("again"))
    for name in ("table.jsonl", "hypotheses.safetensors"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()


def test_what_is_heard_in_a_clip_does_not_depend_on_its_batch(student):
    clips = [speak("espeak-en-us+f3", text, 1.0, 0.0) for text in (TEXTS[0], TEXTS[1] * 2, TEXTS[2])]
    together, texts = student.encode_audio([*clips, *clips[::-1]])
    for place, clip in enumerate(clips):
        (alone,), (text,) = student.encode_audio([clip])
        for other in (place, 5 - place):
            assert texts[other] == text
            assert torch.equal(together[other].ids, alone.ids)
            assert torch.allclose(together[other].weights, alone.weights, atol=1e-4)
