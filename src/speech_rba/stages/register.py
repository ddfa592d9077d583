"""artifacts/{voice,validate,gate,base,align,evaluate,report} -> a registered candidate, registration.json.

The candidate is the method that is best on validation by register.rank_by. It is registered only if, loaded
from the store as any user loads it, it gives the answers that the student gave before. A killed stage resumes
its run, and a version that exists already is not registered twice.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Answer, Clip, read_jsonl, write_jsonl
from speech_rba.registry import bundle, runs, versions
from speech_rba.registry.bundle import ModelVersion
from speech_rba.registry.promotion import NO_REWARD_HACKING
from speech_rba.registry.scores import score_on_test, score_on_validation
from speech_rba.stages import main, publish, workdir

SERVING = Path(__file__).parents[1] / "registry" / "serving.py"


@dataclass(frozen=True)
class Candidate:
    """What is registered: a method, its files and results, and the clips that a reload is checked with."""

    method: str
    base: Path
    adapter: Path
    gate: Path
    evaluation: Path
    clips: list[Path]
    tags: dict[str, str]
    description: str


def run(
    params: Params,
    voice: Path,
    validation: Path,
    gate: Path,
    base: Path,
    methods: Path,
    evaluation: Path,
    report: Path,
    out: Path,
) -> None:
    """Writes registration.json; the best method is a new candidate for the model.

    Raises:
        UserError: the gate did not pass, a method has no score on validation, there are too few clips to
            check with, or the reloaded student answers differently.
    """
    model_name = params.register_.model_name
    gate_result = passed_gate(gate)
    scores = json.loads((evaluation / "scores.json").read_text())
    method = best_method(params, scores)
    tags = tags_of(method, params.register_.rank_by, gate_result, scores)
    answers = read_jsonl(evaluation / "answers.jsonl", Answer)
    accepted = validation / "accepted.jsonl"
    clips = check_clips(accepted, params.register_.num_check_clips, changed_clips(answers, method))
    recordings, description = [voice / clip.path for clip in clips], describe(tags, gate_result, scores)
    candidate = Candidate(method, base, methods / method, gate, evaluation, recordings, tags, description)
    work = workdir("register", params, accepted, gate, base, methods, evaluation, report)
    with runs.open_run(model_name, work) as run_id, publish(out, work) as folder:
        runs.log_pipeline(run_id, params, scores, methods, report)
        version = versions.registered(run_id) or store(candidate, model_name, run_id, work)
        versions.set_candidate(version)
        write_registration(folder, model_name, run_id, version, len(clips))
    print(f"{bundle.label(version)} ({method}): {len(clips)} clips have the same answers after a reload")
    print("Next: speech-rba review")


def passed_gate(gate: Path) -> dict:
    """The gate's result.

    Raises:
        UserError: the gate did not pass.
    """
    result = json.loads((gate / "gate.json").read_text())
    if result["passed"] is not True:
        raise UserError(f"{gate}/gate.json did not pass: correct the data first")
    return result


def best_method(params: Params, scores: dict) -> str:
    """The method with the highest validation score by register.rank_by; of equal ones the first."""
    rank_by = params.register_.rank_by
    return max(params.align.methods, key=lambda method: score_on_validation(scores, method, rank_by))


def store(candidate: Candidate, model_name: str, run_id: str, work: Path) -> ModelVersion:
    """The new version, its files in the store; what was collected for it in `work` is gone."""
    folder = work / "bundle"
    make_bundle(folder, candidate)
    store_answers(folder, candidate.clips)
    model_id = bundle.log_student(folder, SERVING)
    shutil.rmtree(folder)  # its links would keep an old base on the disk
    tags = candidate.tags | {"report": f"runs:/{run_id}/report/index.html"}
    return versions.register(model_name, run_id, model_id, candidate.description, tags)


def write_registration(
    folder: Path, model_name: str, run_id: str, version: ModelVersion, num_checked_clips: int
) -> None:
    """`folder` holds registration.json: which version came from which run, method, data and commit."""
    registration: dict[str, object] = {
        "model_name": model_name,
        "version": str(version.version),
        "run_id": run_id,
    }
    for key in ("method", "adapter_sha256", "data_sha256", "git_commit"):
        registration[key] = version.tags[key]
    registration["checked_clips"] = num_checked_clips
    (folder / "registration.json").write_text(json.dumps(registration, indent=2) + "\n")


def tags_of(method: str, rank_by: str, gate_result: dict, scores: dict) -> dict[str, str]:
    """The tags of a version, without its hashes and its report."""
    failed = [check["name"] for check in scores["reward_hacking"][method] if not check["passed"]]
    return {
        "method": method,
        "rank_by": rank_by,
        "validation_score": str(score_on_validation(scores, method, rank_by)),
        "test_score": str(score_on_test(scores, method, rank_by)),
        "reward_hacking": ", ".join(failed) or NO_REWARD_HACKING,
        "data_sha256": gate_result["data_sha256"],
        "git_commit": runs.git_commit(),
    }


def changed_clips(answers: list[Answer], method: str) -> set[str]:
    """Ids of the clips of synthesized rows to which the adapter changes the answer of the base."""
    spoken = [answer for answer in answers if answer.suite == ALIGNMENT and answer.clip_id]
    responses = {(a.clip_id, a.system): a.response for a in spoken}
    return {
        clip
        for (clip, system), response in responses.items()
        if system == method and response != responses[clip, "base"]
    }


def check_clips(accepted: Path, num: int, first: set[str]) -> list[Clip]:
    """`num` accepted test clips of synthesized rows, those of the ids `first` before others.

    Raises:
        UserError: there are fewer.
    """
    clips = [clip for clip in read_jsonl(accepted, Clip) if clip.split == "test" and clip.suite == ALIGNMENT]
    if len(clips) < num:
        raise UserError(
            f"{accepted} has {len(clips)} test clips, register.num_check_clips is {num}: lower it"
        )
    return sorted(clips, key=lambda clip: clip.id not in first)[:num]


def make_bundle(folder: Path, candidate: Candidate) -> None:
    """`folder` holds base, adapter, gate.json, scores.json, and the method's answers to test items.

    A promotion compares these answers, to clips and to texts, with the champion's.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # hard links: the base is half a gigabyte, and MLflow copies it again
    shutil.copytree(candidate.base, folder / "base", copy_function=os.link)
    (folder / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(candidate.adapter / name, folder / "adapter" / name)
    shutil.copyfile(candidate.gate / "gate.json", folder / "gate.json")
    shutil.copyfile(candidate.evaluation / "scores.json", folder / "scores.json")
    answers = read_jsonl(candidate.evaluation / "answers.jsonl", Answer)
    tested = [a for a in answers if a.system == candidate.method and a.split == "test"]
    write_jsonl(folder / "answers.jsonl", tested)


def store_answers(folder: Path, clips: list[Path]) -> None:
    """`folder/check` holds the recordings, and in answers.json what the student answers to each."""
    from speech_rba.data.audio import read_audio
    from speech_rba.model.answering import load_answerer

    check = folder / "check"
    check.mkdir()
    for clip in clips:
        shutil.copyfile(clip, check / clip.name)
    results = load_answerer(folder / "base", folder / "adapter")([read_audio(clip) for clip in clips])
    answers = {clip.name: result.response for clip, result in zip(clips, results, strict=True)}
    (check / "answers.json").write_text(json.dumps(answers, indent=2))


def describe(tags: dict[str, str], gate_result: dict, scores: dict) -> str:
    """The description of a version, Markdown: how its method was selected, its checks, its scores."""
    on_validation, on_test = (f"{float(tags[name]):.3f}" for name in ("validation_score", "test_score"))
    selection = f"chosen by {tags['rank_by']} on validation: {on_validation}, on test {on_test}"
    checks = [*gate_result["checks"], *scores["reward_hacking"][tags["method"]]]
    lines = [f"Method **{tags['method']}**, {selection}", "", *check_table(checks), "", *score_table(scores)]
    return "\n".join(lines)


def check_table(checks: list[dict]) -> list[str]:
    """A Markdown table of the checks of the gate and of reward hacking."""
    header = ["| gate, reward hacking | critical | passed | observed | expected |", "|---|---|---|---|---|"]
    return header + [
        "| {name} | {critical} | {passed} | {observed} | {expected} |".format(**check) for check in checks
    ]


def score_table(scores: dict) -> list[str]:
    """A Markdown table of every metric over all conditions, one column a system."""
    systems, values = scores["systems"], {}
    for row in scores["scores"]:
        over_all = "text" if row["system"] == "text" else "all"  # the text system has no speech condition
        if row["condition"] == over_all:
            values[row["suite"], row["metric"], row["system"]] = f"{row['value']:.3f}"
    lines = ["| all conditions | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for suite, metric in dict.fromkeys(key[:2] for key in values):
        cells = [values.get((suite, metric, system), "") for system in systems]
        lines.append(f"| {suite} {metric} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main(run)
