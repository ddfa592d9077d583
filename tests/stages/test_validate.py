import hashlib
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile

from speech_rba.config import Validate, load_params
from speech_rba.data.audio import read_audio
from speech_rba.data.measures import measure
from speech_rba.records import (
    Attribute,
    Clip,
    Condition,
    Message,
    Quarantined,
    Question,
    Row,
    Sampling,
    read_jsonl,
    write_jsonl,
)
from speech_rba.stages import validate

PROJECT = load_params(Path(__file__).parents[2] / "params.yaml")
PARAMS = PROJECT.model_copy(
    update={
        "evaluate": PROJECT.evaluate.model_copy(update={"suites": {"spoken_qa": "data/suites/spoken_qa"}}),
        "validate_": Validate(
            max_wer_clean=0.6,
            min_duration_s=0.4,
            max_duration_s=10.0,
            min_rms_db=-45.0,
            max_clipped_share=0.01,
            max_silence_share=0.8,
            leak_ngram=5,
        ),
    }
)
QUESTION = Question(id="q1", prompt="Which two rivers meet in the city of Lyon?", answers=["Rhone"])
SOUND = {
    "tone": 0.1 * np.sin(np.arange(16000) / 10),
    "silence": 3e-3 * np.sin(np.arange(16000) / 10),
    "mostly_silence": np.concatenate([0.5 * np.sin(np.arange(2400) / 10), np.zeros(13600)]),
    "clipped": np.clip(2 * np.sin(np.arange(16000) / 10), -1, 1),
    "long": 0.1 * np.sin(np.arange(11 * 16000) / 10),
    "short": 0.1 * np.sin(np.arange(1600) / 10),
    "nothing": np.zeros(0),
}


class World:
    """The inputs of validation in a folder; a good row of each condition stands in it from the start."""

    def __init__(self, folder: Path):
        self.folder, self.rows, self.clips, self.features, self.questions = folder, [], [], [], []
        for place in ("voice", "suites/spoken_qa"):
            (folder / place / "clips").mkdir(parents=True)
        for number, condition in enumerate(get_args(Condition)):
            self.add(f"r{number}", f"Tell me about thing {number}", condition=condition)
            held = {"voice": "held", "heldout_voice": True, "heldout_condition": condition == "muffled"}
            self.add("t1", "Sing a song for me", split="test", condition=condition, **held)
        self.add("q1", QUESTION.prompt, split="test", suite="spoken_qa")

    def add(
        self,
        row_id,
        text,
        sound="tone",
        judge_hypothesis=None,
        split="train",
        completion="Yes.",
        suite="alignment",
        **clip,
    ):
        """One clip, its measures, and its row if that is new."""
        clip = {
            "condition": "clean",
            "heldout_condition": False,
            "voice": "anna",
            "heldout_voice": False,
        } | clip
        clip_id = f"{row_id}-{len(self.clips)}"
        path = (
            self.folder / ("voice" if suite == "alignment" else f"suites/{suite}") / f"clips/{clip_id}.flac"
        )
        soundfile.write(path, SOUND[sound], 16000)
        audio = read_audio(path) if len(SOUND[sound]) else np.zeros(0, np.float32)
        settings = {
            "engine": "e",
            "rate": 1.0,
            "pitch_semitones": 0.0,
            "strength": {},
            "spoken": "x",
            "seed": 0,
        }
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        made = {"level_db": -23.0, "duration_s": len(audio) / 16000, "sha256": sha256}
        place = {
            "id": clip_id,
            "row_id": row_id,
            "suite": suite,
            "split": split,
            "path": f"clips/{clip_id}.flac",
        }
        self.clips.append(Clip(transcript=text, **place, **settings, **made, **clip))
        self.features.append(
            measure(audio, text, text if judge_hypothesis is None else judge_hypothesis, "", -0.1, clip_id)
        )
        if suite == "alignment" and row_id not in {row.id for row in self.rows}:
            self.rows.append(a_row(row_id, split, text, completion))
        return clip_id

    def validate(self) -> dict:
        """The report, after a run of the stage."""
        for folder in ["rows", "features", "suite_features/spoken_qa"]:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        write_jsonl(self.folder / "rows/rows.jsonl", self.rows)
        self.write_part("voice", "features", lambda clip: clip.suite == "alignment")
        self.write_part(
            "suites/spoken_qa", "suite_features/spoken_qa", lambda clip: clip.suite == "spoken_qa"
        )
        write_jsonl(self.folder / "suites/spoken_qa/questions.jsonl", [QUESTION, *self.questions])
        (self.folder / "suites/spoken_qa/report.json").write_text(json.dumps({"causes": {"no answer": 3}}))
        names = ["rows", "voice", "features", "suites", "suite_features", "out"]
        validate.run(PARAMS, *(self.folder / name for name in names))
        return json.loads((self.folder / "out/report.json").read_text())

    def write_part(self, clips: str, features: str, chosen) -> None:
        ids = {clip.id for clip in self.clips if chosen(clip)}
        write_jsonl(self.folder / clips / "manifest.jsonl", [clip for clip in self.clips if clip.id in ids])
        write_jsonl(self.folder / features / "table.jsonl", [f for f in self.features if f.clip_id in ids])

    def quarantine(self) -> dict[str, list[str]]:
        return {q.clip_id: q.reasons for q in read_jsonl(self.folder / "out/quarantine.jsonl", Quarantined)}


def a_row(row_id: str, split: str, text: str, completion: str) -> Row:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8)
    made = {"completion_ended": True, "teacher": "t", "template_hash": "h", "sampling": sampling, "seed": 0}
    messages = [Message(role="user", content=text)]
    row = {"id": row_id, "task": "instruction", "split": split, "prompt": text, "completion": completion}
    return Row(messages=messages, **row, **made)


def failed(report: dict) -> set[str]:
    return {check["name"] for check in report["checks"] if check["critical"] and not check["passed"]}


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_good_clips_are_accepted_as_they_are(world):
    report = world.validate()
    assert failed(report) == set() and all(check["passed"] for check in report["checks"])
    assert (report["num_clips"], report["num_accepted"], report["num_quarantined"]) == (22, 22, 0)
    assert read_jsonl(world.folder / "out/accepted.jsonl", Clip) == world.clips[:-1]
    assert read_jsonl(world.folder / "out/accepted_suites.jsonl", Clip) == world.clips[-1:]
    assert report["suites"]["spoken_qa"]["num_accepted"] == 1 and report["suites"]["spoken_qa"]["refused"]
    assert "refused: no answer" in (world.folder / "out/report.html").read_text()
    assert (world.folder / "out/quarantine.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("reason", "planted"),
    [
        ("silent", {"text": "Hear this", "sound": "silence"}),
        ("silent", {"text": "Hear this", "sound": "mostly_silence"}),
        ("clipped", {"text": "Hear this", "sound": "clipped"}),
        ("too_long", {"text": "Hear this", "sound": "long"}),
        ("too_short", {"text": "Hear this", "sound": "short"}),
        ("wrong_words", {"text": "Hear this now", "judge_hypothesis": "here is know"}),
        ("empty_text", {"text": " ?!", "judge_hypothesis": ""}),
        ("no_completion", {"text": "Hear this", "completion": " \n"}),
        ("duplicate", {"text": "tell me ABOUT thing three!"}),
        ("leaked", {"text": "Say which 2 rivers meet in the town"}),
        ("leaked", {"text": QUESTION.prompt, "split": "train"}),
        ("leaked", {"text": "Hear this", "completion": "You ask which two rivers meet in Lyon."}),
    ],
)
def test_each_planted_fault_is_quarantined_and_the_rest_kept(world, reason, planted):
    clip_id = world.add("bad", **planted)
    report = world.validate()
    assert world.quarantine() == {clip_id: [reason]}
    assert report["reasons"] == {reason: 1} and report["num_accepted"] == 22
    assert failed(report) == set()
    assert clip_id not in {clip.id for clip in read_jsonl(world.folder / "out/accepted.jsonl", Clip)}
    assert reason in (world.folder / "out/report.html").read_text()


def test_a_question_may_be_asked_in_several_manners_and_once_in_each(world):
    prompt, attributes = "Am I a man or a woman?", ("man", "woman", "woman")
    for number, value in enumerate(attributes):
        attribute = Attribute(name="gender", value=value)
        world.questions.append(Question(id=f"m{number}", prompt=prompt, answers=[value], attribute=attribute))
        last = world.add(f"m{number}", prompt, split="test", suite="spoken_qa")
    world.validate()
    assert world.quarantine() == {last: ["duplicate"]}


def test_a_test_row_may_sound_like_a_benchmark_and_noise_may_hide_words(world):
    world.add("t2", "Which two rivers meet in the sea", split="test")
    world.add("n1", "Hear this now", judge_hypothesis="here is know", condition="babble")
    assert world.validate()["num_quarantined"] == 0


def test_two_silent_rows_say_nothing_alike(world):
    for row_id in ["e1", "e2"]:
        world.add(row_id, "", judge_hypothesis="")
    assert set(map(tuple, (world.validate(), world.quarantine())[1].values())) == {("empty_text",)}


def test_a_text_in_two_splits_stays_in_the_earlier(world):
    clip_id = world.add("late", "Sing a song for me")
    assert failed(world.validate()) == set()
    assert world.quarantine() == {clip_id: ["duplicate"]}


def test_missing_changed_and_empty_files_are_unreadable(world):
    missing, changed = world.add("m", "One thing here"), world.add("c", "Another thing here")
    empty = world.add("e", "Last thing here", sound="nothing")
    world.features.pop()  # nothing was measured on it
    (world.folder / f"voice/clips/{missing}.flac").unlink()
    soundfile.write(world.folder / f"voice/clips/{changed}.flac", SOUND["long"], 16000)
    report = world.validate()
    assert world.quarantine() == {clip_id: ["unreadable"] for clip_id in (missing, changed, empty)}
    assert failed(report) == set()


def test_a_file_with_a_header_but_no_sound_is_unreadable(world):
    path = world.folder / "voice/clips/empty.wav"
    soundfile.write(path, SOUND["nothing"], 16000)
    made = {"path": "clips/empty.wav", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert not validate.readable(world.folder / "voice", world.clips[0].model_copy(update=made))


@pytest.mark.parametrize("path", ["../secret.flac", "/etc/passwd", "clips/../../secret.flac"])
def test_a_path_out_of_the_voice_folder_is_refused(world, path):
    world.clips[3] = world.clips[3].model_copy(update={"path": path})
    with pytest.raises(ValueError, match=path):
        world.validate()
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        ("unique_clip_ids", lambda w: w.clips.append(w.clips[0])),
        ("every_clip_measured", lambda w: w.features.pop(0)),
        ("every_clip_measured", lambda w: w.features.append(w.features[0])),
        ("every_clip_has_its_row", lambda w: w.rows.pop(0)),
        ("row_in_one_split", lambda w: w.add("t1", "Sing a song for me", split="train", condition="clean")),
        (
            "heldout_condition_untrained",
            lambda w: w.add("h", "A word from me", condition="hum", heldout_condition=True),
        ),
        ("heldout_voice_untrained", lambda w: w.add("h", "A word from me", voice="held")),
    ],
)
def test_each_critical_check_fails_on_its_fault(world, check, plant):
    plant(world)
    assert check in failed(world.validate())


def test_clean_speech_that_is_not_understood_is_critical(world):
    for number in range(9):
        world.add(f"w{number}", f"Hear number {number} now", judge_hypothesis="")
    assert failed(world.validate()) == {"clean_speech_recognised"}


def test_a_condition_whose_clips_are_all_quarantined_is_critical(world):
    babble = [n for n, clip in enumerate(world.clips) if clip.condition == "babble"]
    for number in babble:
        world.features[number] = world.features[number].model_copy(update={"rms_db": -80.0})
    report = world.validate()
    assert failed(report) == {"every_condition"}
    assert (
        next(c for c in report["checks"] if c["name"] == "every_condition")["observed"] == "missing: babble"
    )


def test_no_clips_at_all_still_give_a_report(world):
    world.clips, world.features = [], []
    report = world.validate()
    assert {"clips_left", "every_condition", "clean_speech_recognised"} == failed(report)
    assert report["num_clips"] == 0 and failed(report["suites"]["spoken_qa"]) == {"clips_left"}


def test_what_is_said_of_suites_stands_apart_from_what_training_depends_on(world):
    before = world.validate()
    kept = (world.folder / "out/accepted.jsonl").read_bytes()
    silent = world.add(
        "q1", QUESTION.prompt, split="test", suite="spoken_qa", sound="silence", condition="hum"
    )
    stranger = world.add("q9", "Who is it", suite="spoken_qa", split="test")
    report = world.validate()
    assert (world.folder / "out/accepted.jsonl").read_bytes() == kept
    assert {k: v for k, v in report.items() if k != "suites"} == {
        k: v for k, v in before.items() if k != "suites"
    }
    assert failed(report["suites"]["spoken_qa"]) == {"every_clip_has_its_row"}, stranger
    assert world.quarantine() == {silent: ["silent"]}


def test_recordings_of_others_may_be_long_and_of_other_words(world):
    world.clips.pop(), world.features.pop()  # the voiced question
    made = {"suite": "spoken_qa", "split": "test", "voice": "recorded"}
    for row_id, sound in (("q1", "long"), ("q1", "short")):
        world.add(row_id, QUESTION.prompt, judge_hypothesis="nothing of it", sound=sound, **made)
        world.clips[-1] = world.clips[-1].model_copy(update={"engine": "recorded"})
    report = world.validate()["suites"]["spoken_qa"]
    assert (report["num_accepted"], report["num_quarantined"], failed(report)) == (2, 0, set())


def test_a_suite_without_a_clip_left_is_critical(world):
    world.features[-1] = world.features[-1].model_copy(update={"rms_db": -80.0})
    assert failed(world.validate()["suites"]["spoken_qa"]) == {"clips_left"}


def test_a_voice_held_out_for_validation_speaks_there_alone(world):
    world.add("v1", "Read me a poem", split="validation", voice="kept", heldout_voice=True)
    assert failed(world.validate()) == set()
    world.add("v2", "Read me a story", split="test", voice="kept", heldout_voice=True)
    assert failed(world.validate()) == {"heldout_voice_untrained"}


def test_unquarantined_leaks_and_shared_texts_would_be_noticed(world):
    world.add("leak", QUESTION.prompt)
    world.add("late", "Sing a song for me")
    world.validate()
    contract = validate.contract
    clips = [clip for clip in world.clips if clip.suite == "alignment"]
    table = contract.clip_table(
        clips, world.features, world.rows, {"spoken_qa": [QUESTION]}, [False] * len(clips), 5
    )
    checks, _ = contract.check(contract.remaining(table, {}), contract.accepted_rules())
    assert failed({"checks": checks}) == {"text_in_one_split", "no_benchmark_text"}


def test_the_page_escapes_what_it_shows():
    report = {"num_clips": 1, "num_accepted": 0, "num_quarantined": 1, "reasons": {"<b>": 1}, "checks": []}
    report |= {"suites": {"<b>": report | {"refused": {"<b>": 1}}}}
    assert "&lt;b&gt;" in validate.page(report) and "<b>" not in validate.page(report)
