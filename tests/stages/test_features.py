"""What is heard and measured on real speech; a file that is no audio is heard as nothing, and rounds are kept."""

import json
from pathlib import Path

import pytest
import soundfile

from speech_rba.model.heard import load_heard
from speech_rba.params import load_params
from speech_rba.records import Clip, Feature, read_jsonl, write_jsonl
from speech_rba.stages import features
from speech_rba.synthesis.voices import speak

TEXTS = ["What is the capital of France?", "Tell me about the river, please.", "Nobody can read this."]


def test_every_clip_is_measured_and_a_second_run_hears_nothing_again(tmp_path, monkeypatch, student):
    monkeypatch.chdir(tmp_path)
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
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    features.run(params, Path("voice"), Path("base"), Path("out"))
    table = read_jsonl(Path("out/table.jsonl"), Feature)
    assert [f.clip_id for f in table] == ["c0", "c1", "c2", "c3"]
    assert table[0].heard == table[0].student_heard == TEXTS[0] and table[0].wer == 0
    assert table[2].duration_s == 0 and table[2].silence_share == 1
    assert table[3].heard is None and table[3].wer is None and table[3].student_heard == TEXTS[0]  # nobody asks
    kept = load_heard(Path("out/heard.safetensors"), [0, 1, 2])
    assert student.audio_tower.text(kept[1].token_ids.tolist()) == table[1].heard
    assert kept[0].top_probs.shape == (len(kept[0].token_ids), params.features.top_k)

    monkeypatch.setattr(features, "hear_round", lambda *_: pytest.fail("heard again"))
    features.run(params, Path("voice"), Path("base"), Path("again"))
    assert Path("again/table.jsonl").read_bytes() == Path("out/table.jsonl").read_bytes()
    assert list(json.loads(Path("out/report.json").read_text())["ms_per_clip"]) == ["student"]  # no ears of its own
