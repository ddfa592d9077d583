"""Benchmarks that nobody here made: what is read from them, and what is refused."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from speech_rba.data.audio import read_audio
from speech_rba.data.benchmarks import listed, read_benchmark


def folder(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path


def test_questions_with_answers_have_a_heading_and_lie_under_wav(tmp_path):
    table = 'Questions\tAnswer\tFile\nWho said "hello"?\tAda\t1.wav\n'
    assert listed(folder(tmp_path, "any.tsv", table)) == [("wav/1.wav", 'Who said "hello"?', ["Ada"])]


def test_transcripts_have_neither_heading_nor_answer(tmp_path):
    assert listed(folder(tmp_path, "transcripts.tsv", "a/1.flac\tbook a room\n")) == [("a/1.flac", "book a room", [])]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("notes.txt", "hello", r"is no suite: it needs questions.jsonl, transcripts.tsv \(file, text\), one .tsv"),
        ("any.tsv", "Question\tAnswer\tFile\nWho?\tAda\n", r"a line with too few columns: \['Who\?', 'Ada'\]"),
        ("transcripts.tsv", "../secret.wav\thello\n", r"names ../secret.wav; allowed are files inside"),
        ("any.tsv", "Q\tA\tF\nWho?\tAda\t../../1.wav\n", r"names wav/../../1.wav; allowed are files inside"),
    ],
)
def test_other_folders_are_refused_with_what_to_do(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        listed(folder(tmp_path, name, text))


def voicebench(folder: Path, subset: str, **columns: list) -> str:
    """A subset in VoiceBench's form: a second of sound a row at 8 kHz, as the hub's Audio feature stores it."""
    sound = io.BytesIO()
    soundfile.write(sound, np.full(8_000, 0.25), 8_000, format="WAV")
    rows = len(next(iter(columns.values())))
    columns |= {"audio": [{"bytes": sound.getvalue(), "path": "1.wav"}] * rows}
    (folder / subset).mkdir()
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    made.to_parquet(folder / subset / "test-00000-of-00001.parquet")
    return str(folder / subset)


def test_voicebench_rows_are_scored_by_what_they_hold(tmp_path):
    [choice] = read_benchmark(voicebench(tmp_path, "openbookqa", prompt=["A or B?"], reference=["B"]))
    assert choice.question.choice == "B" and not choice.question.answers
    audio = read_audio(choice.open())
    assert audio.shape == (16_000,) and abs(audio[8_000] - 0.25) < 0.01
    [fact] = read_benchmark(voicebench(tmp_path, "sd-qa", prompt=["Who?"], reference=["Ada Lovelace"]))
    assert fact.question.answers == ["Ada Lovelace"] and fact.question.choice is None
    asked = {"instruction_id_list": [["punctuation:no_comma"]], "kwargs": [[{"num_words": None}]]}
    [told] = read_benchmark(voicebench(tmp_path, "ifeval", prompt=["No commas."], **asked))
    assert [(i.name, i.arguments) for i in told.question.instructions] == [("punctuation:no_comma", {})]
    [harmful] = read_benchmark(voicebench(tmp_path, "advbench", prompt=["Harm."]))
    [open_ended] = read_benchmark(voicebench(tmp_path, "commoneval", prompt=["Tell me."]))
    assert harmful.question.refuse and not harmful.question.judged and open_ended.question.judged


def test_other_parquet_and_what_the_hub_does_not_give_are_refused(tmp_path):
    place = voicebench(tmp_path, "mtbench", turns=[["One.", "Two."]])
    with pytest.raises(ValueError, match=r"mtbench has no column \['prompt'\]"):
        read_benchmark(place)
    silent = tmp_path / "silent"
    silent.mkdir()
    rows = {"prompt": ["Who?"], "audio": [{"bytes": None, "path": "1.wav"}]}
    datasets.Dataset.from_dict(rows).to_parquet(silent / "test.parquet")
    with pytest.raises(ValueError, match="row 00000 of silent holds no sound"):
        read_benchmark(str(silent))
    with pytest.raises(ValueError, match="bbh cannot be scored here"):
        read_benchmark(voicebench(tmp_path, "bbh", prompt=["Is it?"], reference=["yes"]))
    with pytest.raises(ValueError, match="must name a subset: hub:OWNER/NAME/SUBSET"):
        read_benchmark("hub:hlt-lab/voicebench")
    with pytest.raises(ValueError, match="set HF_HUB_OFFLINE=0, or name a folder"):
        read_benchmark("hub:hlt-lab/voicebench/sd-qa")
