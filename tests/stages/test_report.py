import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import Params, load_params
from speech_rba.evaluation.metrics import bootstrap, paired_bootstrap, recovery
from speech_rba.records import Answer, Clip, Feature, Message, Row, Sampling, write_jsonl
from speech_rba.report.page import headline, pick_examples, sign, word_diff
from speech_rba.stages.report import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
PARAMS = PARAMS.model_copy(
    update={"evaluate": PARAMS.evaluate.model_copy(update={"suites": {"spoken_qa": "quiz"}})}
)
SYSTEMS = {"text": 0.36, "cascade": 0.22, "base": 0.20, "sft": 0.24, "rba": 0.30}  # chance of a right answer
CONDITIONS = ["clean", "white_noise", "babble", "room", "telephone"]
SHARES = ["prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"]
VOICES = [
    "hibari",
    "espeak-en-us",
    "espeak-en-us+f3",
    "espeak-en-gb",
    "espeak-en-029+m3",
    "espeak-en-gb-scotland",
]
CHECKS = [
    {
        "name": "quarantine_share",
        "critical": True,
        "passed": True,
        "observed": 0.04,
        "expected": "at most 0.1",
    },
    {"name": "leaked <rows>", "critical": False, "passed": False, "observed": 2, "expected": 0},
]
ASKED = "What is the capital of France & who built <b>the tower</b> there?"


def make_clips(folder: Path, num_rows: int, noise: np.random.Generator) -> list[Clip]:
    clips = []
    for suite in ("alignment", "spoken_qa"):
        place = folder / ("voice" if suite == "alignment" else f"suites/{suite}")
        (place / "clips").mkdir(parents=True)
        for number in range(num_rows):
            condition, voice = CONDITIONS[number % 5], VOICES[number % len(VOICES)]
            clip_id = f"{suite}-{number}"
            tone = 0.2 * np.sin(np.arange(16_000) * (0.05 + 0.002 * number)) + noise.normal(0, 0.02, 16_000)
            soundfile.write(place / "clips" / f"{clip_id}.flac", tone, 16_000)
            setting = {"voice": voice, "heldout_voice": voice.endswith("scotland"), "condition": condition}
            noisy, in_room = condition in ("white_noise", "babble"), condition == "room"
            setting["strength"] = (
                {"snr_db": float(noise.uniform(0, 10))} if noisy else {"rt60_s": 0.5} if in_room else {}
            )
            clips.append(
                Clip(
                    **setting, id=clip_id, row_id=f"row-{suite}-{number}", suite=suite, split="test",
                    path=f"clips/{clip_id}.flac", transcript=ASKED, spoken=ASKED, engine="tone",
                    heldout_condition=False, rate=1.0, pitch_semitones=0.0, level_db=-20.0,
                    seed=0, duration_s=1.0, sha256="0" * 64,
                )
            )  # fmt: skip
    return clips


def make_answers(clips: list[Clip], noise: np.random.Generator) -> Iterator[Answer]:
    for clip in clips:
        for system, skill in SYSTEMS.items():
            spoken = system != "text"
            skill -= 0.08 * (spoken and clip.condition != "clean")
            metrics = {"accuracy": float(noise.random() < skill), "unparsed": 0.25}
            if clip.suite == "alignment":
                metrics = {
                    "teacher_similarity": skill + noise.normal(0.2, 0.1),
                    "token_f1": skill,
                    "teacher_logp": skill - 2,
                }
            yield Answer(
                suite=clip.suite, row_id=clip.row_id, clip_id=clip.id if spoken else "", system=system,
                condition=clip.condition if spoken else "text", voice=clip.voice if spoken else "",
                heldout_voice=spoken and clip.heldout_voice, snr_db=clip.strength.get("snr_db") if spoken else None,
                judge_hypothesis="what is the capital" if spoken else "", metrics=metrics,
                response=f"The capital of France is Paris, says {system} <script>alert(1)</script>. "
                "It is on the river Seine, and the tower was built by the company of Gustave Eiffel.",
            )  # fmt: skip


REWARD_HACKING = {
    "name": "length_drift",
    "critical": True,
    "passed": False,
    "observed": 3.5,
    "expected": "at most 1.5",
}


def estimate(found: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), found, strict=True))


def make_scores(answers: list[Answer]) -> dict:
    scores, paired, recovered = [], [], []
    for suite, metrics in {
        "alignment": ["token_f1", "teacher_similarity", "teacher_logp"],
        "spoken_qa": ["accuracy", "unparsed"],
    }.items():
        for metric in metrics:
            for condition in ("text", "all", *CONDITIONS):
                of = {"suite": suite, "condition": condition, "metric": metric}
                values = {
                    system: [
                        answer.metrics[metric]
                        for answer in answers
                        if (answer.suite, answer.system) == (suite, system)
                        and answer.condition in (CONDITIONS if condition == "all" else [condition])
                    ]
                    for system in SYSTEMS
                }
                for system, found in values.items():
                    if found:
                        found = {"system": system, "n": len(found)} | estimate(bootstrap(found, 50, 0))
                        scores.append(of | found)
                if condition == "text":
                    texts = values["text"]
                    continue
                for a, b in [("rba", "cascade"), ("rba", "base"), ("rba", "sft"), ("sft", "cascade")]:
                    keys = ("difference", "low", "high", "p_value")
                    tested = dict(zip(keys, paired_bootstrap(values[a], values[b], 50, 0), strict=True))
                    paired.append(of | {"a": a, "b": b, "n": len(values[a])} | tested)
                for system in ("base", "sft", "rba"):
                    found = recovery(values[system], values["cascade"], texts[: len(values[system])], 50, 0)
                    if found:
                        recovered.append(of | {"system": system, "n": len(values[system])} | estimate(found))
    wer = [{"suite": s, "condition": c, "asr_adapter": e, "value": 0.1, "n": 9} for s in ("alignment", "spoken_qa")
           for c in CONDITIONS for e in ("Whisper", "student")]  # fmt: skip
    cost = [{"system": system, "tokens_per_s": 280.0, "real_time_factor": 0.4} for system in SYSTEMS]
    return {
        "systems": list(SYSTEMS), "scores": scores, "paired": paired, "recovery": recovered, "cost": cost, "wer": wer,
        "validation": scores, "minutes": 4.2, "reward_hacking": {"sft": [], "rba": [REWARD_HACKING]},
        "translated": [{"suite": "letters", "condition": "degraded", "system": "sft", "n": 50, "bleu": 0.123,
                        "chrf": 0.456}],
        "followed": [{"suite": "orders", "condition": "text", "system": "text", "n": 9, "forgetting": None}
                     | dict.fromkeys(SHARES, 0.0),
                     {"suite": "orders", "condition": "clean", "system": "sft", "n": 9, "forgetting": 0.678}
                     | dict.fromkeys(SHARES, 0.321)],
    }  # fmt: skip


def make_log(method: str) -> list[dict]:
    log = [{"step": i, "phase": "sft", "minutes": i / 10, "loss": 3 - i / 10} for i in range(1, 13)]
    if method == "rba":
        names = ["reward", "reward_std", "kl", "frac_reward_zero_std", "completions/mean_length"]
        names += ["completions/clipped_ratio", "rewards/teacher_pmi/mean", "rewards/teacher_similarity/mean"]
        names += ["rewards/length/mean", "rewards/repetition/mean", "loss"]
        log += [
            {"step": i, "phase": "rba", "minutes": i / 5} | dict.fromkeys(names, i / 20)
            for i in range(13, 33)
        ]
    return log


def make_artifacts(top: Path, num_rows: int) -> dict[str, Path]:
    """Well-formed outputs of every stage before the report; the keys are the arguments of its run."""
    noise = np.random.default_rng(0)
    names = [
        "synthesize",
        "voice",
        "features",
        "suites",
        "suite_features",
        "validate",
        "gate",
        "align",
        "evaluate",
    ]
    stages = {name: top / name for name in names}
    for method in ("sft", "rba"):
        (stages["align"] / method).mkdir(parents=True)
    clips = make_clips(top, num_rows, noise)
    answers = list(make_answers(clips, noise))
    rows = [
        Row(
            id=clip.row_id, task="question", split="test", messages=[Message(role="user", content=ASKED)], prompt=ASKED,
            completion="Paris.", completion_ended=True, teacher="t", template_hash="0", seed=0,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=9),
        )
        for clip in clips if clip.suite == "alignment"
    ]  # fmt: skip
    features = [
        Feature(
            clip_id=clip.id, duration_s=1.0, rms_db=-20.0, peak=0.5, clipped_share=0.0, silence_share=0.1,
            words_per_s=2.0, judge_hypothesis="What is the capitol of France", student_hypothesis="What is the capital",
            wer=0.25, mean_logprob=-0.3,
        )
        for clip in clips
    ]  # fmt: skip
    for folder in stages.values():
        folder.mkdir(exist_ok=True)
    write_jsonl(stages["synthesize"] / "rows.jsonl", rows)
    for name, suite, table in (
        ("accepted", "alignment", stages["features"]),
        ("accepted_suites", "spoken_qa", stages["suite_features"] / "spoken_qa"),
    ):
        table.mkdir(exist_ok=True)
        ids = {clip.id for clip in clips if clip.suite == suite}
        write_jsonl(stages["validate"] / f"{name}.jsonl", [clip for clip in clips if clip.id in ids])
        write_jsonl(table / "table.jsonl", [feature for feature in features if feature.clip_id in ids])
    write_jsonl(stages["evaluate"] / "answers.jsonl", answers)
    training = {"num_steps": 60, "num_samples": 960, "num_teacher_tokens": 20_000, "peak_memory_gb": 2.1}
    reports = {
        "synthesize/report.json": {
            "kept": 1200, "rejected": {"length": 800, "near_duplicate": 40}, "tokens_per_s": 300.0, "minutes": 8.5
        },
        "voice/report.json": {"num_clips": 99, "audio_minutes": 70.0, "minutes": 5.1, "real_time_factor": 0.07},
        "features/report.json": {"num_clips": 99, "minutes": 6.0, "ms_per_clip": 250.0},
        "suites/spoken_qa/report.json": {"minutes": 1.2},
        "suite_features/spoken_qa/report.json": {"minutes": 0.8},
        "validate/report.json": {
            "num_clips": 104, "num_accepted": 99, "num_quarantined": 5, "reasons": {"max_wer_clean": 4, "rms_db": 1},
            "checks": CHECKS,
            "suites": {"spoken_qa": {"reasons": {"silent": 1}, "refused": {"the answer is missing": 2}}},
        },
        "gate/gate.json": {"passed": True, "checks": CHECKS[:1], "data_sha256": "ab" * 32},
        "evaluate/scores.json": make_scores(answers),
    }  # fmt: skip
    for method in ("sft", "rba"):
        about = {"method": method, "minutes": 6.3, "adapter_sha256": "cd" * 32}
        reports[f"align/{method}/training.json"] = training | about
        lines = [json.dumps(line) for line in make_log(method)]
        (stages["align"] / method / "log.jsonl").write_text("\n".join(lines))
    for path, content in reports.items():
        (top / path).parent.mkdir(exist_ok=True)
        (top / path).write_text(json.dumps(content))
    keys = {"validate": "validation", "align": "methods", "evaluate": "evaluation"}
    return {keys.get(name, name): path for name, path in stages.items()} | {"out": top / "report"}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> dict[str, Path]:
    paths = make_artifacts(tmp_path_factory.mktemp("artifacts"), num_rows=10)
    run(PARAMS, **paths)
    return paths


def test_page_is_one_file_with_every_text_escaped(artifacts):
    page = (artifacts["out"] / "index.html").read_text()
    assert [path.name for path in artifacts["out"].iterdir()] == ["index.html"]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # no request leaves the page
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert "&lt;script&gt;alert(1)" in page
    assert "leaked &lt;rows&gt;" in page
    assert (
        page.count("<audio") == 20
    )  # 20 clips were evaluated, and params.report.num_examples asks for as many
    assert page.count("1,200") == 1
    assert (
        page.count("<small>25.0 % of choices unparsed</small>") == 1 + 4 * 6
    )  # text, and 4 systems in 6 columns
    assert "<td>12.3</td><td>45.6</td><td>50</td>" in page
    assert "<td>32.1</td><td>67.8</td><td>9</td>" in page and "text follows none" in page


def test_page_is_the_same_every_time(artifacts, tmp_path):
    run(PARAMS, **artifacts | {"out": tmp_path / "again"})
    assert (tmp_path / "again/index.html").read_bytes() == (artifacts["out"] / "index.html").read_bytes()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page was not opened")
def test_page_opens_in_a_browser(artifacts, tmp_path):
    page = (artifacts["out"] / "index.html").read_text()
    script = """<script>addEventListener("load", () => {
      const players = [...document.querySelectorAll("audio")];
      const whole = players.filter(player => player.duration === 1);
      document.title = players.length + " players, " + whole.length + " of 1 s, "
        + (document.documentElement.scrollWidth <= innerWidth ? "fits" : "too wide");
    })</script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", script + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    flags += (
        " --no-first-run --enable-logging=stderr --window-size=420,900 --virtual-time-budget=5000 --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *flags.split(), profile, f"file://{tmp_path / 'page.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>20 players, 20 of 1 s, fits</title>" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr


def with_methods(methods: list[str]) -> Params:
    params = PARAMS
    return params.model_copy(update={"align": params.align.model_copy(update={"methods": methods})})


def test_methods_that_were_not_scored_are_refused(artifacts, tmp_path):
    with pytest.raises(
        ValueError, match=r"\['sft', 'kd', 'rba'\], but .* scored \['sft', 'rba'\]; run evaluate again"
    ):
        run(with_methods(["sft", "kd", "rba"]), **artifacts | {"out": tmp_path / "report"})
    assert not (tmp_path / "report").exists()


def test_page_without_rba(artifacts, tmp_path):
    shutil.copytree(artifacts["evaluation"], tmp_path / "evaluate")
    scores = json.loads((tmp_path / "evaluate/scores.json").read_text())
    scores["systems"].remove("rba")
    del scores["reward_hacking"]["rba"]
    for key in ("scores", "recovery", "cost"):
        scores[key] = [score for score in scores[key] if score["system"] != "rba"]
    scores["paired"] = [score for score in scores["paired"] if "rba" not in (score["a"], score["b"])]
    (tmp_path / "evaluate/scores.json").write_text(json.dumps(scores))
    lines = (tmp_path / "evaluate/answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "evaluate/answers.jsonl").write_text(
        "".join(line for line in lines if '"system":"rba"' not in line)
    )
    run(
        with_methods(["sft"]), **artifacts | {"evaluation": tmp_path / "evaluate", "out": tmp_path / "report"}
    )
    page = (tmp_path / "report/index.html").read_text()
    assert "Loss on the teacher" in page
    assert "Policy loss" not in page


def test_headline_says_what_the_intervals_say():
    item = {
        "suite": "spoken_qa",
        "metric": "accuracy",
        "degraded": True,
        "best": "rba",
        "over_base": {"difference": -0.01},
    }
    signs = [sign(0.01, 0.1), sign(0, 0.1)]
    verdicts = [item | {"against": {"difference": 0.062, "sign": found}, "num_rows": 20} for found in signs]
    assert headline(verdicts) == (
        "In hard conditions, rba beats the cascade on spoken qa "
        "(+6.2 points accuracy, −1.0 of it by alignment) and rba is not told apart from the "
        "cascade on spoken qa (+6.2 points accuracy, −1.0 of it by alignment)."
    )
    assert headline(verdicts[:1] * 2).count("rba beats the cascade") == 1
    assert sign(-0.2, -0.1) == "worse"


def test_examples_vary_and_begin_with_the_hard_conditions():
    def answer(number: int, condition: str, voice: str) -> Answer:
        return Answer(
            suite="s", row_id=str(number), clip_id=f"{number}", system="base", condition=condition, voice=voice,
            heldout_voice=False, snr_db=None, judge_hypothesis="", response="", metrics={},
        )  # fmt: skip

    answers = [
        answer(0, "clean", "x"),
        answer(1, "clean", "y"),
        answer(2, "babble", "x"),
        answer(3, "babble", "x"),
    ]
    answers.append(answer(4, "babble", "y"))
    assert pick_examples(answers, 2) == [
        "2",
        "1",
    ]  # one of each condition, in another voice, the hard one first
    assert pick_examples(answers, 4) == ["2", "4", "1", "0"]
    assert len(pick_examples(answers, 9)) == 5


def test_word_diff_marks_what_was_misheard():
    said, hypotheses = word_diff("Who built the Tower?", "who built a tower")
    assert said == [("Who", True), ("built", True), ("the", False), ("Tower?", True)]
    assert hypotheses == [("who", True), ("built", True), ("a", False), ("tower", True)]


def test_too_few_texts_give_no_verdict():
    pair = {"difference": 0.3, "sign": "better"}
    item = {
        "suite": "alignment",
        "metric": "token_f1",
        "degraded": True,
        "best": "rba",
        "against": pair,
        "num_rows": 19,
    }
    assert headline([item]) == "Only 19 held-out texts were answered: too few to tell the systems apart."
