"""artifacts/{voice,validate,gate,base,align,evaluate,report} -> a candidate in the registry, registration.json.

The candidate is the method that is best on validation by register.rank_by. It is registered only if, loaded
from the store as any user loads it, it gives the answers that the student gave before. Killed, the stage goes on
with the same run, and a version that exists already is not registered twice.
"""

import json
import os
import shutil
from pathlib import Path

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Answer, Clip, read_jsonl, write_jsonl
from speech_rba.registry import tracking
from speech_rba.stages import main, publish, workdir

SERVING = Path(__file__).parents[1] / "registry" / "serving.py"


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
        UserError: the gate did not pass, a method has no score on validation, there are too few clips to check
            with, or the reloaded student answers differently.
    """
    name, rank_by = params.register_.model_name, params.register_.rank_by
    gated, scores = (
        json.loads(path.read_text()) for path in (gate / "gate.json", evaluation / "scores.json")
    )
    if gated["passed"] is not True:
        raise UserError(f"{gate}/gate.json did not pass: mend the data first")
    # of equals the first
    method = max(params.align.methods, key=lambda m: tracking.validation_score(scores, m, rank_by))
    answers = read_jsonl(evaluation / "answers.jsonl", Answer)
    changed = changed_clips(answers, method)
    clips = check_clips(validation / "accepted.jsonl", params.register_.num_check_clips, changed)
    tags = tags_of(method, rank_by, gated, scores)
    work = workdir("register", params, validation / "accepted.jsonl", gate, base, methods, evaluation, report)
    with tracking.open_run(name, work) as run_id, publish(out, work) as folder:
        tracking.log_pipeline(run_id, params, scores, methods, report)
        version = tracking.registered(run_id)
        if version is None:
            bundle = work / "bundle"
            make_bundle(bundle, base, methods / method, gate, evaluation)
            write_jsonl(bundle / "answers.jsonl", tested(answers, method))
            store_answers(bundle, [voice / clip.path for clip in clips])
            model_id = tracking.log_student(bundle, SERVING)
            shutil.rmtree(bundle)  # its links would keep an old base on the disk
            tags["report"] = f"runs:/{run_id}/report/index.html"
            version = tracking.register(name, run_id, model_id, describe(tags, gated, scores), tags)
        tracking.set_candidate(version)
        registration = {"model_name": name, "version": str(version.version), "run_id": run_id}
        registration |= {
            key: version.tags[key] for key in ("method", "adapter_sha256", "data_sha256", "git_commit")
        }
        registration["checked_clips"] = len(clips)
        (folder / "registration.json").write_text(json.dumps(registration, indent=2) + "\n")
    print(
        f"{version.name} version {version.version} ({method}): {len(clips)} clips answered alike when "
        "reloaded"
    )


def tags_of(method: str, rank_by: str, gated: dict, scores: dict) -> dict[str, str]:
    """What a version is told from others by, but for its hashes."""
    raised = [check["name"] for check in scores["reward_hacking"][method] if not check["passed"]]
    return {
        "method": method,
        "rank_by": rank_by,
        "validation_score": str(tracking.validation_score(scores, method, rank_by)),
        "test_score": str(tracking.main_score(scores, method, rank_by)),
        "reward_hacking": ", ".join(raised) or tracking.NO_REWARD_HACKING,
        "data_sha256": gated["data_sha256"],
        "git_commit": tracking.git_commit(),
    }


def tested(answers: list[Answer], method: str) -> list[Answer]:
    """What `method` answered to test items, spoken and read: a promotion compares it with the champion's."""
    return [answer for answer in answers if answer.system == method and answer.split == "test"]


def changed_clips(answers: list[Answer], method: str) -> set[str]:
    """Ids of the clips of synthesized rows to which the adapter changes base's answer."""
    spoken = [answer for answer in answers if answer.suite == ALIGNMENT and answer.clip_id]
    responses = {(a.clip_id, a.system): a.response for a in spoken}
    return {
        clip
        for (clip, system), said in responses.items()
        if system == method and said != responses[clip, "base"]
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


def make_bundle(bundle: Path, base: Path, adapter: Path, gate: Path, evaluation: Path) -> None:
    """`bundle` holds all that a version is made of: base, adapter, gate.json and scores.json."""
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(base, bundle / "base", copy_function=os.link)  # half a gigabyte that is copied on anyway
    (bundle / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / name, bundle / "adapter" / name)
    shutil.copyfile(gate / "gate.json", bundle / "gate.json")
    shutil.copyfile(evaluation / "scores.json", bundle / "scores.json")


def store_answers(bundle: Path, clips: list[Path]) -> None:
    """`bundle/check` holds the recordings, and in answers.json what the student answers to each."""
    from speech_rba.data.audio import read_audio
    from speech_rba.model.answering import load_answerer

    check = bundle / "check"
    check.mkdir()
    for clip in clips:
        shutil.copyfile(clip, check / clip.name)
    results = load_answerer(bundle / "base", bundle / "adapter")([read_audio(clip) for clip in clips])
    answers = {clip.name: result.response for clip, result in zip(clips, results, strict=True)}
    (check / "answers.json").write_text(json.dumps(answers, indent=2))


def describe(tags: dict[str, str], gated: dict, scores: dict) -> str:
    """What the method was chosen by, the gate with the reward_hacking, the scores over all conditions: Markdown."""
    systems = scores["systems"]
    lines = [
        "Method **{method}**, chosen by {rank_by} on validation: {validation_score}, on test {test_score}".format(
            **tags
        ),
        "",
        "| gate, reward_hacking | critical | passed | observed | expected |",
        "|---|---|---|---|---|",
    ]
    checks = [*gated["checks"], *scores["reward_hacking"][tags["method"]]]
    lines += [
        "| {name} | {critical} | {passed} | {observed} | {expected} |".format(**check) for check in checks
    ]
    lines += ["", "| all conditions | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    # the text system reads and has no speech condition
    rows = [
        row for row in scores["scores"] if row["condition"] == ("text" if row["system"] == "text" else "all")
    ]
    values = {(row["suite"], row["metric"], row["system"]): f"{row['value']:.3f}" for row in rows}
    for suite, metric in dict.fromkeys(key[:2] for key in values):
        cells = [values.get((suite, metric, system), "") for system in systems]
        lines.append(f"| {suite} {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(run)
