"""The stage validate: clips that break a rule are quarantined, and violated critical rules are reported."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import Validate, load_params
from speech_rba.data import contract
from speech_rba.data.audio import read_audio
from speech_rba.data.clip_table import ClipSet, accepted_lines, build_clip_table
from speech_rba.data.data_docs import index_page
from speech_rba.data.measures import measure
from speech_rba.records import (
    Attribute,
    Clip,
    Message,
    Quarantined,
    Question,
    Row,
    Sampling,
    read_jsonl,
    write_jsonl,
)
from speech_rba.stages import validate

LIMITS = Validate(
    max_wer_clean=0.6,
    min_duration_s=0.4,
    max_duration_s=10.0,
    min_rms_db=-45.0,
    max_clipped_share=0.01,
    max_silence_share=0.8,
    leak_ngram=5,
)
PROJECT = load_params(Path(__file__).parents[2] / "params.yaml")
CONDITIONS = list(PROJECT.voice.conditions)
SUITES = PROJECT.evaluate.model_copy(update={"suites": {"spoken_qa": "data/suites/spoken_qa"}})
PARAMS = PROJECT.model_copy(update={"evaluate": SUITES, "validate_": LIMITS})
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
CLIP = {
    "suite": "alignment",
    "split": "train",
    "condition": "clean",
    "heldout_condition": False,
    "voice": "anna",
    "heldout_voice": False,
    "engine": "e",
    "rate": 1.0,
    "pitch_semitones": 0.0,
    "level_db": -23.0,
    "strength": {},
    "spoken": "x",
    "seed": 0,
}


class Inputs:
    """The inputs of the stage in a folder; they start with a valid clip of each condition in each split."""

    def __init__(self, folder: Path):
        self.folder, self.rows, self.clips, self.features, self.questions = folder, [], [], [], []
        for place in ("voice", "suites/spoken_qa"):
            (folder / place / "clips").mkdir(parents=True)
        for number, condition in enumerate(CONDITIONS):
            self.add(f"r{number}", f"Tell me about thing {number}", condition=condition)
            held_out = {"voice": "held", "heldout_voice": True, "heldout_condition": condition == "muffled"}
            self.add("t1", "Sing a song for me", split="test", condition=condition, **held_out)
        self.add("q1", QUESTION.prompt, split="test", suite="spoken_qa")

    def add(self, row_id, text, sound="tone", judge_hypothesis=None, completion="Yes.", **clip) -> str:
        """The id of a new clip, with its measures, and with its row where that is new."""
        fields = CLIP | clip
        clip_id = f"{row_id}-{len(self.clips)}"
        aligned = fields["suite"] == "alignment"
        path = self.folder / ("voice" if aligned else f"suites/{fields['suite']}") / f"clips/{clip_id}.flac"
        soundfile.write(path, SOUND[sound], 16000)
        audio = read_audio(path) if len(SOUND[sound]) else np.zeros(0, np.float32)
        file = {"path": f"clips/{clip_id}.flac", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        fields |= {"duration_s": len(audio) / 16000, **file}
        self.clips.append(Clip(id=clip_id, row_id=row_id, transcript=text, **fields))
        hypothesis = text if judge_hypothesis is None else judge_hypothesis
        self.features.append(measure(audio, text, hypothesis, "", -0.1, clip_id))
        if aligned and row_id not in {row.id for row in self.rows}:
            self.rows.append(a_row(row_id, fields["split"], text, completion))
        return clip_id

    def validate(self) -> dict:
        """The report, after a run of the stage."""
        for folder in ["rows", "features", "suite_features/spoken_qa"]:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        write_jsonl(self.folder / "rows/rows.jsonl", self.rows)
        self.write_part("alignment", "voice", "features")
        self.write_part("spoken_qa", "suites/spoken_qa", "suite_features/spoken_qa")
        write_jsonl(self.folder / "suites/spoken_qa/questions.jsonl", [QUESTION, *self.questions])
        (self.folder / "suites/spoken_qa/report.json").write_text(json.dumps({"causes": {"no answer": 3}}))
        names = ["rows", "voice", "features", "suites", "suite_features", "out", "metrics"]
        validate.run(PARAMS, *(self.folder / name for name in names))
        return json.loads((self.folder / "out/report.json").read_text())

    def write_part(self, suite: str, clips: str, features: str) -> None:
        part = self.clip_set(suite)
        write_jsonl(self.folder / clips / "manifest.jsonl", part.clips)
        write_jsonl(self.folder / features / "table.jsonl", part.features)

    def clip_set(self, suite: str = "alignment") -> ClipSet:
        clips = [clip for clip in self.clips if clip.suite == suite]
        ids = {clip.id for clip in clips}
        features = [feature for feature in self.features if feature.clip_id in ids]
        rows = self.rows if suite == "alignment" else []
        return ClipSet(
            clips, features, rows, {"spoken_qa": [QUESTION, *self.questions]}, [False] * len(clips)
        )

    def violated(self) -> set[str]:
        """The rules for all clips of the rows that are violated."""
        table = build_clip_table(self.clip_set(), LIMITS.leak_ngram)
        return failed({"checks": contract.check(table, contract.table_rules()).checks})

    def judge(self, suite: str) -> dict:
        """The report on one part of the data."""
        clips = self.clip_set(suite)
        aligned = suite == "alignment"
        if aligned:
            rules = validate.aligned_rules(LIMITS, CONDITIONS)
        else:
            rules = validate.suite_rules(clips.clips, LIMITS)
        return validate.judge(clips, LIMITS, rules).report()

    def quarantine(self) -> dict[str, list[str]]:
        return {q.clip_id: q.reasons for q in read_jsonl(self.folder / "out/quarantine.jsonl", Quarantined)}


def a_row(row_id: str, split: str, text: str, completion: str) -> Row:
    return Row(
        id=row_id,
        task="instruction",
        split=split,
        messages=[Message(role="user", content=text)],
        prompt=text,
        completion=completion,
        completion_ended=True,
        teacher="t",
        template_hash="h",
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
        seed=0,
    )


def failed(report: dict) -> set[str]:
    return {check["name"] for check in report["checks"] if check["critical"] and not check["passed"]}


@pytest.fixture
def inputs(tmp_path) -> Inputs:
    return Inputs(tmp_path)


def test_valid_clips_are_accepted_unchanged(inputs):
    report = inputs.validate()
    assert failed(report) == set() and all(check["passed"] for check in report["checks"])
    assert (report["num_clips"], report["num_accepted"], report["num_quarantined"]) == (22, 22, 0)
    assert read_jsonl(inputs.folder / "out/accepted.jsonl", Clip) == inputs.clips[:-1]
    assert read_jsonl(inputs.folder / "out/accepted_suites.jsonl", Clip) == inputs.clips[-1:]
    assert report["suites"]["spoken_qa"]["num_accepted"] == 1
    assert report["suites"]["spoken_qa"]["refused"] == {"no answer": 3}
    assert "refused: no answer" in (inputs.folder / "out/data_docs/index.html").read_text()
    assert (inputs.folder / "out/quarantine.jsonl").read_text() == ""


FAULTS = [
    ("silent", {"text": "Play one", "sound": "silence"}),
    ("silent", {"text": "Play two", "sound": "mostly_silence"}),
    ("clipped", {"text": "Play three", "sound": "clipped"}),
    ("too_long", {"text": "Play four", "sound": "long"}),
    ("too_short", {"text": "Play five", "sound": "short"}),
    ("wrong_words", {"text": "Listen to this now", "judge_hypothesis": "here is know"}),
    ("empty_text", {"text": " ?!", "judge_hypothesis": ""}),
    ("no_completion", {"text": "Play six", "completion": " \n"}),
    ("duplicate", {"text": "tell me ABOUT thing three!"}),
    ("leaked", {"text": "Say which 2 rivers meet in the town"}),
    ("leaked", {"text": QUESTION.prompt}),
    ("leaked", {"text": "Play seven", "completion": "You ask which two rivers meet in Lyon."}),
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> tuple[Inputs, dict, dict[str, list[str]]]:
    """Inputs with a clip of each fault, the report on them, and the reason of each faulty clip."""
    inputs = Inputs(tmp_path_factory.mktemp("faulty"))
    reasons = {inputs.add(f"bad{n}", **fault): [reason] for n, (reason, fault) in enumerate(FAULTS)}
    return inputs, inputs.validate(), reasons


def test_each_faulty_clip_is_quarantined_for_its_fault_alone(faulty):
    inputs, report, reasons = faulty
    assert inputs.quarantine() == reasons
    counts = {reason: sum(r == reason for r, _ in FAULTS) for reason, _ in FAULTS}
    assert report["reasons"] == counts and report["num_accepted"] == 22 and failed(report) == set()
    accepted = {clip.id for clip in read_jsonl(inputs.folder / "out/accepted.jsonl", Clip)}
    assert len(accepted) == 22 and not accepted & reasons.keys()


def test_data_docs_show_the_checks_without_the_network(faulty):
    inputs, _, _ = faulty
    pages = {path.name: path.read_text() for path in (inputs.folder / "out/data_docs").iterdir()}
    assert set(pages) == {"index.html", "rows.html", "suite-spoken_qa.html"}
    assert all(reason in pages["index.html"] for reason, _ in FAULTS)
    assert 'href="rows.html"' in pages["index.html"] and 'href="suite-spoken_qa.html"' in pages["index.html"]
    assert "clipped_share" in pages["rows.html"] and "values must be less than" in pages["rows.html"]
    for name, text in pages.items():
        assert "http" not in text and "<script" not in text and "src=" not in text, name
        assert len(text) < 200_000, name


def test_data_docs_are_the_same_for_the_same_inputs(faulty):
    inputs, _, _ = faulty
    folder = inputs.folder / "out/data_docs"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    inputs.validate()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_question_may_occur_once_in_each_attribute(inputs):
    prompt = "Am I a man or a woman?"
    for number, value in enumerate(("man", "woman", "woman")):
        attribute = Attribute(name="gender", value=value)
        inputs.questions.append(
            Question(id=f"m{number}", prompt=prompt, answers=[value], attribute=attribute)
        )
        last = inputs.add(f"m{number}", prompt, split="test", suite="spoken_qa")
    table = build_clip_table(inputs.clip_set("spoken_qa"), LIMITS.leak_ngram)
    assert list(table.id[table.duplicate]) == [last]


def test_a_test_row_may_resemble_a_benchmark_and_only_clean_speech_has_a_limit_of_wer(inputs):
    inputs.add("t2", "Which two rivers meet in the sea", split="test")
    inputs.add("n1", "Listen to this now", judge_hypothesis="here is know", condition="babble")
    assert inputs.judge("alignment")["num_quarantined"] == 0


def test_two_rows_without_words_are_no_duplicates(inputs):
    for row_id in ["e1", "e2"]:
        inputs.add(row_id, "", judge_hypothesis="")
    assert inputs.judge("alignment")["reasons"] == {"empty_text": 2}


def test_of_a_text_in_two_splits_the_earlier_row_stays(inputs):
    inputs.add("late", "Sing a song for me")
    report = inputs.judge("alignment")
    assert failed(report) == set() and report["reasons"] == {"duplicate": 1}


def test_missing_changed_and_empty_files_are_unreadable(inputs):
    missing, changed = inputs.add("m", "One thing here"), inputs.add("c", "Another thing here")
    empty = inputs.add("e", "Last thing here", sound="nothing")
    inputs.features.pop()  # the features stage measures no empty file
    (inputs.folder / f"voice/clips/{missing}.flac").unlink()
    soundfile.write(inputs.folder / f"voice/clips/{changed}.flac", SOUND["long"], 16000)
    report = inputs.validate()
    assert inputs.quarantine() == {clip_id: ["unreadable"] for clip_id in (missing, changed, empty)}
    assert failed(report) == set()


def test_a_file_with_a_header_but_no_sound_is_unreadable(inputs):
    path = inputs.folder / "voice/clips/empty.wav"
    soundfile.write(path, SOUND["nothing"], 16000)
    file = {"path": "clips/empty.wav", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert not validate.readable(inputs.folder / "voice", inputs.clips[0].model_copy(update=file))


@pytest.mark.parametrize("path", ["../secret.flac", "/etc/passwd", "clips/../../secret.flac"])
def test_a_path_out_of_the_voice_folder_is_refused(inputs, path):
    inputs.clips[4] = inputs.clips[4].model_copy(update={"path": path})
    with pytest.raises(ValueError, match=path):
        inputs.validate()
    assert not (inputs.folder / "out").exists()


@pytest.mark.parametrize(
    ("rule", "plant"),
    [
        ("unique_clip_ids", lambda i: i.clips.append(i.clips[0])),
        ("every_clip_measured", lambda i: i.features.pop(0)),
        ("every_clip_measured", lambda i: i.features.append(i.features[0])),
        ("every_clip_has_its_row", lambda i: i.rows.pop(0)),
        ("row_in_one_split", lambda i: i.add("t1", "Sing a song for me")),
        (
            "heldout_condition_untrained",
            lambda i: i.add("h", "A word from me", condition="hum", heldout_condition=True),
        ),
        ("heldout_voice_untrained", lambda i: i.add("h", "A word from me", voice="held")),
    ],
)
def test_each_rule_for_all_clips_is_violated_by_its_fault(inputs, rule, plant):
    plant(inputs)
    assert rule in inputs.violated()


def test_clean_speech_that_is_not_recognised_violates_a_critical_rule(inputs):
    for number in range(9):
        inputs.add(f"w{number}", f"Say number {number} now", judge_hypothesis="")
    assert inputs.violated() == {"clean_speech_recognised"}


def test_a_condition_whose_clips_are_all_quarantined_violates_a_critical_rule(inputs):
    for number, clip in enumerate(inputs.clips):
        if clip.condition == "babble":
            inputs.features[number] = inputs.features[number].model_copy(update={"rms_db": -80.0})
    report = inputs.judge("alignment")
    assert failed(report) == {"every_condition"}
    [check] = [check for check in report["checks"] if check["name"] == "every_condition"]
    assert check["observed"] == "missing: babble"


def test_without_any_clip_there_is_a_report(inputs):
    inputs.clips, inputs.features = [], []
    report = inputs.validate()
    assert {"clips_left", "every_condition", "clean_speech_recognised"} == failed(report)
    assert report["num_clips"] == 0 and failed(report["suites"]["spoken_qa"]) == {"clips_left"}


def test_faults_of_a_suite_do_not_change_what_training_depends_on(inputs):
    before = inputs.validate()
    accepted = (inputs.folder / "out/accepted.jsonl").read_bytes()
    clip = {"suite": "spoken_qa", "split": "test"}
    silent = inputs.add("q1", QUESTION.prompt, sound="silence", condition="hum", **clip)
    inputs.add("q9", "Who is it", **clip)  # there is no such question
    report = inputs.validate()
    assert (inputs.folder / "out/accepted.jsonl").read_bytes() == accepted
    suites, _ = report.pop("suites"), before.pop("suites")
    assert report == before
    assert failed(suites["spoken_qa"]) == {"every_clip_has_its_row"}
    assert inputs.quarantine() == {silent: ["silent"]}


def test_recordings_of_others_have_no_limits_of_length_and_wer(inputs):
    inputs.clips.pop(), inputs.features.pop()  # the synthesized question
    recorded = {"suite": "spoken_qa", "split": "test", "voice": "recorded", "engine": "recorded"}
    for sound in ("long", "short"):
        inputs.add("q1", QUESTION.prompt, judge_hypothesis="other words", sound=sound, **recorded)
    report = inputs.judge("spoken_qa")
    assert (report["num_accepted"], report["num_quarantined"], failed(report)) == (2, 0, set())


def test_a_suite_without_an_accepted_clip_violates_a_critical_rule(inputs):
    inputs.features[-1] = inputs.features[-1].model_copy(update={"rms_db": -80.0})
    assert failed(inputs.judge("spoken_qa")) == {"clips_left"}


def test_a_voice_held_out_for_validation_speaks_in_no_other_split(inputs):
    inputs.add("v1", "Read me a poem", split="validation", voice="kept", heldout_voice=True)
    assert inputs.violated() == set()
    inputs.add("v2", "Read me a story", split="test", voice="kept", heldout_voice=True)
    assert inputs.violated() == {"heldout_voice_untrained"}


def test_leaks_and_shared_texts_among_accepted_clips_violate_critical_rules(inputs):
    inputs.add("leak", QUESTION.prompt)
    inputs.add("late", "Sing a song for me")
    table = build_clip_table(inputs.clip_set(), LIMITS.leak_ngram)
    checks = contract.check(accepted_lines(table, {}), contract.accepted_rules(CONDITIONS)).checks
    assert failed({"checks": checks}) == {"text_in_one_split", "no_benchmark_text"}


def test_data_docs_escape_names_and_causes():
    report = {"num_clips": 1, "num_accepted": 0, "num_quarantined": 1, "reasons": {"<b>": 1}, "checks": []}
    report |= {"suites": {"<b>": report | {"refused": {"<b>": 1}}}}
    assert "&lt;b&gt;" in index_page(report) and "<b>" not in index_page(report)
