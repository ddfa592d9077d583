"""The report stage on synthetic outputs of all stages before it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_rba.config import Params, load_params
from speech_rba.evaluation.comparisons import comparisons, described_metrics
from speech_rba.evaluation.people import error_rates, transcribed_clip
from speech_rba.evaluation.score_table import score_table
from speech_rba.records import Answer, Clip, Feature, Message, Row, Sampling, write_jsonl
from speech_rba.stages.report import run
from tests.browser import chromium

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
SETTINGS = PARAMS.evaluate.model_copy(update={"suites": {"spoken_qa": "quiz"}, "num_bootstrap": 50})
PARAMS = PARAMS.model_copy(update={"evaluate": SETTINGS})
SYSTEMS = {
    "text": 0.36,
    "cascade": 0.22,
    "base": 0.20,
    "sft": 0.24,
    "rba": 0.30,
}  # chance of a correct answer
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
QUARANTINE = {
    "name": "quarantine_share",
    "critical": True,
    "passed": True,
    "observed": 0.04,
    "expected": "<= 0.1",
}
LEAKED = {"name": "leaked <rows>", "critical": False, "passed": False, "observed": 2, "expected": 0}
DRIFT = {
    "name": "length_drift",
    "critical": True,
    "passed": False,
    "observed": 3.5,
    "expected": "at most 1.5",
}
PROMPT = "What is the capital of France & who built <b>the tower</b> there?"
RESPONSE = (
    "The capital of France is Paris, answers {} <script>alert(1)</script>. "
    "It is on the river Seine, and the tower was built by the company of Gustave Eiffel."
)


def make_clips(folder: Path, num_rows: int, noise: np.random.Generator) -> list[Clip]:
    """Clips of the synthesized rows and of a suite, one for each row, with their files."""
    clips = []
    for suite, place in (("alignment", folder / "voice"), ("spoken_qa", folder / "suites/spoken_qa")):
        (place / "clips").mkdir(parents=True)
        for number in range(num_rows):
            clip = make_clip(suite, number, noise)
            tone = 0.2 * np.sin(np.arange(16_000) * (0.05 + 0.002 * number)) + noise.normal(0, 0.02, 16_000)
            soundfile.write(place / clip.path, tone, 16_000)
            clips.append(clip)
    return clips


def make_clip(suite: str, number: int, noise: np.random.Generator) -> Clip:
    condition, voice, clip_id = CONDITIONS[number % 5], VOICES[number % len(VOICES)], f"{suite}-{number}"
    strength = {"rt60_s": 0.5} if condition == "room" else {}
    if condition in ("white_noise", "babble"):
        strength = {"snr_db": float(noise.uniform(0, 10))}
    return Clip(
        id=clip_id,
        row_id=f"row-{suite}-{number}",
        suite=suite,
        split="test",
        path=f"clips/{clip_id}.flac",
        transcript=PROMPT,
        spoken=PROMPT,
        engine="tone",
        voice=voice,
        heldout_voice=voice.endswith("scotland"),
        condition=condition,
        strength=strength,
        heldout_condition=False,
        rate=1.0,
        pitch_semitones=0.0,
        level_db=-20.0,
        seed=0,
        duration_s=1.0,
        sha256="0" * 64,
    )


def make_answers(clips: list[Clip], noise: np.random.Generator) -> Iterator[Answer]:
    for clip in clips:
        for system, skill in SYSTEMS.items():
            spoken = system != "text"
            skill -= 0.08 * (spoken and clip.condition != "clean")
            metrics = {"accuracy": float(noise.random() < skill), "unparsed": 0.25}
            if clip.suite == "alignment":
                cosine = skill + noise.normal(0.2, 0.1)
                metrics = {"teacher_similarity": cosine, "token_f1": skill, "teacher_logp": skill - 2}
            yield Answer(
                suite=clip.suite,
                row_id=clip.row_id,
                clip_id=clip.id if spoken else "",
                system=system,
                condition=clip.condition if spoken else "text",
                voice=clip.voice if spoken else "",
                heldout_voice=spoken and clip.heldout_voice,
                snr_db=clip.strength.get("snr_db") if spoken else None,
                judge_hypothesis="what is the capital" if spoken else "",
                metrics=metrics,
                response=RESPONSE.format(system),
            )


def make_corpora() -> list[dict]:
    return [
        {
            "kind": "translations",
            "title": "corpus scores",
            "note": "",
            "rows": [
                {
                    "suite": "letters",
                    "condition": "degraded",
                    "system": "sft",
                    "n": 50,
                    "bleu": 0.123,
                    "corpus_chrf": 0.456,
                }
            ],
        },
        {
            "kind": "instructions",
            "title": "instructions",
            "note": "By IFEval.",
            "rows": [
                {"suite": "orders", "condition": "text", "system": "text", "n": 9, "forgetting": None}
                | dict.fromkeys(SHARES, 0.0),
                {"suite": "orders", "condition": "clean", "system": "sft", "n": 9, "forgetting": 0.678}
                | dict.fromkeys(SHARES, 0.321),
            ],
        },
    ]


def make_people() -> list[dict]:
    """Two sets, one of a single speaker: the student has a word wrong in each clip."""
    clips = [
        transcribed_clip(
            "voices",
            f"{folder}/{number}.wav",
            f"{folder} {number}",
            condition,
            "the cat sat on it",
            {"Whisper": "The cat sat on it.", "student": "What cat sat on it?"},
        )
        for folder, num in (("readers", 3), ("learner", 1))
        for number in range(num)
        for condition in ("clean", "telephone")
    ]
    return error_rates(clips, 50, 0)


def make_scores(answers: list[Answer]) -> dict:
    systems = [name for name in SYSTEMS if any(answer.system == name for answer in answers)]
    table = score_table(answers, systems, SETTINGS)
    corpora = make_corpora()
    wer = [
        {"suite": suite, "condition": condition, "asr_adapter": name, "value": 0.1, "n": 9}
        for suite in ("alignment", "spoken_qa")
        for condition in CONDITIONS
        for name in ("Whisper", "student")
    ]
    return {
        "systems": systems,
        "scores": table.scores,
        "paired": table.paired,
        "recovery": table.recovery,
        "wer": wer,
        "people": make_people(),
        "cost": [{"system": name, "tokens_per_s": 280.0, "real_time_factor": 0.4} for name in systems],
        "minutes": 4.2,
        "reward_hacking": {"sft": [], "rba": [DRIFT]},
        "corpora": corpora,
        "comparisons": comparisons(answers, table.scores, table.scores, systems, SETTINGS),
        "metrics": described_metrics(table.scores, corpora),
    }


def make_log(method: str) -> list[dict]:
    log = [{"step": i, "phase": "sft", "minutes": i / 10, "loss": 3 - i / 10} for i in range(1, 13)]
    if method == "rba":
        names = ["reward", "reward_std", "kl", "frac_reward_zero_std", "completions/mean_length", "loss"]
        names += ["completions/clipped_ratio", "rewards/teacher_pmi/mean", "rewards/teacher_similarity/mean"]
        names += ["rewards/length/mean", "rewards/repetition/mean"]
        values = [dict.fromkeys(names, i / 20) for i in range(13, 33)]
        log += [{"step": i, "phase": "rba", "minutes": i / 5} | row for i, row in enumerate(values, 13)]
    return log


def make_rows(clips: list[Clip]) -> list[Row]:
    return [
        Row(
            id=clip.row_id,
            task="question",
            split="test",
            messages=[Message(role="user", content=PROMPT)],
            prompt=PROMPT,
            completion="Paris.",
            completion_ended=True,
            teacher="t",
            template_hash="0",
            seed=0,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=9),
        )
        for clip in clips
        if clip.suite == "alignment"
    ]


def make_feature(clip: Clip) -> Feature:
    return Feature(
        clip_id=clip.id,
        duration_s=1.0,
        rms_db=-20.0,
        peak=0.5,
        clipped_share=0.0,
        silence_share=0.1,
        words_per_s=2.0,
        judge_hypothesis="What is the capitol of France",
        student_hypothesis="What is the capital",
        wer=0.25,
        mean_logprob=-0.3,
    )


def make_reports(scores: dict) -> dict[str, dict]:
    """The JSON file of every stage, by path."""
    training = {"minutes": 6.3, "num_steps": 60, "num_samples": 960, "num_teacher_tokens": 20_000}
    training |= {"peak_memory_gb": 2.1, "adapter_sha256": "cd" * 32}
    suite = {"reasons": {"silent": 1}, "refused": {"the answer is missing": 2}}
    return {
        "synthesize/report.json": {
            "kept": 1200,
            "rejected": {"length": 800, "near_duplicate": 40},
            "minutes": 8.5,
        },
        "voice/report.json": {"num_clips": 99, "audio_minutes": 70.0, "minutes": 5.1},
        "features/report.json": {"num_clips": 99, "minutes": 6.0},
        "suites/spoken_qa/report.json": {"minutes": 1.2},
        "suite_features/spoken_qa/report.json": {"minutes": 0.8},
        "validate/report.json": {
            "num_clips": 104,
            "num_accepted": 99,
            "num_quarantined": 5,
            "reasons": {"max_wer_clean": 4, "rms_db": 1},
            "checks": [QUARANTINE, LEAKED],
            "suites": {"spoken_qa": suite},
        },
        "gate/gate.json": {"passed": True, "checks": [QUARANTINE], "data_sha256": "ab" * 32},
        "align/sft/training.json": training,
        "align/rba/training.json": training,
        "evaluate/scores.json": scores,
    }


def make_artifacts(top: Path, num_rows: int) -> dict[str, Path]:
    """Outputs of every stage before the report; the keys are the arguments of its `run`."""
    noise = np.random.default_rng(0)
    clips = make_clips(top, num_rows, noise)
    answers = list(make_answers(clips, noise))
    for path, content in make_reports(make_scores(answers)).items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(json.dumps(content))
    for method in ("sft", "rba"):
        lines = [json.dumps(line) for line in make_log(method)]
        (top / "align" / method / "log.jsonl").write_text("\n".join(lines))
    write_jsonl(top / "synthesize/rows.jsonl", make_rows(clips))
    write_jsonl(top / "evaluate/answers.jsonl", answers)
    tables = {"accepted": "features", "accepted_suites": "suite_features/spoken_qa"}
    for (name, table), suite in zip(tables.items(), ("alignment", "spoken_qa"), strict=True):
        of_suite = [clip for clip in clips if clip.suite == suite]
        write_jsonl(top / f"validate/{name}.jsonl", of_suite)
        write_jsonl(top / table / "table.jsonl", [make_feature(clip) for clip in of_suite])
    names = ("synthesize", "voice", "features", "suites", "suite_features", "gate")
    places = {"validation": "validate", "methods": "align", "evaluation": "evaluate", "out": "report"}
    return {name: top / place for name, place in (dict(zip(names, names, strict=True)) | places).items()}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> dict[str, Path]:
    paths = make_artifacts(tmp_path_factory.mktemp("artifacts"), num_rows=10)
    run(PARAMS, **paths)
    return paths


@pytest.fixture(scope="module")
def page(artifacts) -> str:
    return (artifacts["out"] / "index.html").read_text()


def test_the_page_is_one_file_that_loads_nothing(artifacts, page):
    assert [path.name for path in artifacts["out"].iterdir()] == ["index.html"]
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert not re.search(r"url\((?!#)|@import|<script", page)


def test_texts_are_escaped(page):
    assert "&lt;script&gt;alert(1)" in page and "leaked &lt;rows&gt;" in page


def test_the_page_plays_as_many_clips_as_params_set(page):
    assert page.count("<audio") == PARAMS.report.num_examples == 20


def test_the_page_shows_counts_unparsed_shares_and_corpus_scores(page):
    assert page.count("1,200") == 1
    num_cells = 1 + 4 * 6  # of text, and of 4 systems in 6 columns
    assert page.count("<small>25.0 % of choices unparsed</small>") == num_cells
    assert re.search(r"<td>12.3</td>\s*<td>45.6</td>\s*<td>50</td>", page)
    assert "<td>67.8</td>" in page and page.count("<td>32.1</td>") == len(SHARES)
    assert "<td>–</td>" in page  # the forgetting rate where the text system follows nothing


def test_the_page_shows_recordings_of_people_by_set_and_condition(page):
    section = page[page.index('id="people"') : page.index('id="gains"')]
    assert "voices: word error rate (%)" in section and section.count("<svg") == 1
    for title in ("as recorded", "degraded", "all recordings, by condition"):
        assert section.count(f'<th scope="col">{title}</th>') == 1
    assert re.search(r"readers<small>\s*3 clips, 3 speakers</small>", section)
    assert re.search(r"learner<small>\s*1 clips, 1 speaker</small>", section)
    assert re.search(r'<td class="worse">\s*\+20.0\s*<small class="interval">\+20.0 to \+20.0', section)
    assert re.search(r'<td class="open">\s*\+20.0\s*<small>one speaker', section)
    assert "<td>3<small> of 3</small></td>" in section  # statements as questions


def test_the_page_is_the_same_every_time_and_links_data_docs_that_exist(artifacts, page, tmp_path):
    shutil.copytree(artifacts["validation"], tmp_path / "validate")
    (tmp_path / "validate/data_docs").mkdir()
    (tmp_path / "validate/data_docs/index.html").write_text("")
    run(PARAMS, **artifacts | {"validation": tmp_path / "validate", "out": tmp_path / "again"})
    link = '  <a href="../validate/data_docs/index.html">Great Expectations Data Docs</a>\n'
    again = (tmp_path / "again/index.html").read_text()
    assert link in again and again.replace(link, "") == page


def test_the_page_fits_a_phone_and_plays_every_clip_in_a_browser(artifacts):
    errors: list[str] = []
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 420, "height": 900})
        opened.on("console", lambda message: errors.append(message.text))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto((artifacts["out"] / "index.html").as_uri())
        players = "[...document.querySelectorAll('audio')]"
        opened.wait_for_function(f"{players}.every(player => player.readyState > 0)")
        durations = opened.evaluate(f"{players}.map(player => player.duration)")
        fits = opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert durations == [1.0] * 20 and fits and not errors


def with_methods(methods: list[str]) -> Params:
    return PARAMS.model_copy(update={"align": PARAMS.align.model_copy(update={"methods": methods})})


def test_methods_that_were_not_scored_are_refused(artifacts, tmp_path):
    message = r"\['sft', 'kd', 'rba'\], but .* scored \['sft', 'rba'\]; run evaluate again"
    with pytest.raises(ValueError, match=message):
        run(with_methods(["sft", "kd", "rba"]), **artifacts | {"out": tmp_path / "report"})
    assert not (tmp_path / "report").exists()


def test_a_page_without_reinforcement_has_no_curves_of_it(artifacts, tmp_path):
    lines = (artifacts["evaluation"] / "answers.jsonl").read_text().splitlines()
    answers = [a for a in map(Answer.model_validate_json, lines) if a.system != "rba"]
    scores = make_scores(answers) | {"reward_hacking": {"sft": []}}
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/scores.json").write_text(json.dumps(scores))
    write_jsonl(tmp_path / "evaluate/answers.jsonl", answers)
    paths = artifacts | {"evaluation": tmp_path / "evaluate", "out": tmp_path / "report"}
    run(with_methods(["sft"]), **paths)
    page = (tmp_path / "report/index.html").read_text()
    assert "Loss on the teacher" in page and "Policy loss" not in page
