"""synthesize, features, validate, gate, base -> artifacts/align/<method>: a PEFT adapter, its log and its
cost."""

import json
import shutil
from pathlib import Path

import psutil

from speech_rba.alignment.adapter import add_adapter, base_model
from speech_rba.alignment.examples import Example, load_examples
from speech_rba.alignment.methods import load_method
from speech_rba.alignment.trainer import Job, Phase, TrainingLog, train_phase
from speech_rba.assets.resolve import sha256
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.students import load_student
from speech_rba.stages import main, publish, workdir


def run(
    params: Params,
    method: str,
    rows: Path,
    features: Path,
    validation: Path,
    gate: Path,
    base: Path,
    out: Path,
) -> None:
    """The adapter of one method. A killed run resumes from its last checkpoint."""
    check_method(params, method)
    check_gate(gate)
    work = workdir("align", params, method, rows, features, validation / "accepted.jsonl", gate, base)
    student = load_student(base, fast_dtype())
    examples = uncertain_examples(load_examples(student, rows, features, validation, "train"), student)
    model = add_adapter(student, params)
    job = Job(model, examples, params, work, TrainingLog(work / "log.jsonl"))
    phases = load_method(method).phases(job)
    for phase in phases:
        train_phase(job, phase)
    with publish(out, work) as folder:
        save_adapter(job, folder)
        summary = training_summary(method, job, phases, folder)
        (folder / "training.json").write_text(json.dumps(summary, indent=2))
    cost = f"{summary['num_steps']} steps, {summary['num_samples']} samples, {summary['minutes']:.1f} minutes"
    print(f"{method}: {cost}")


def check_method(params: Params, method: str) -> None:
    """Raises UserError for a method that params.yaml does not name."""
    if method not in params.align.methods:
        raise UserError(f"no method {method!r} in align.methods, {params.align.methods}: add it there")


def check_gate(gate: Path) -> None:
    """Raises UserError where the data did not pass."""
    if not json.loads((gate / "gate.json").read_text())["passed"]:
        raise UserError(f"{gate}/gate.json has not passed: look at the validation report")


def uncertain_examples(examples: list[Example], student: SpeechStudent) -> list[Example]:
    """Those whose clip was transcribed with ASR uncertainty: from the others the student builds the teacher's
    prompt.

    Raises:
        UserError: there are none.
    """
    uncertain = [example for example in examples if student.is_uncertain(example.spoken)]
    if not uncertain:
        raise UserError(
            f"none of {len(examples)} training clips has the ASR uncertainty of base.min_asr_uncertainty, "
            f"{student.config.min_asr_uncertainty}: lower it, or let the voice stage make more degraded clips"
        )
    return uncertain


def save_adapter(job: Job, folder: Path) -> None:
    """`folder` holds the adapter and its training log."""
    # PEFT would write a folder of this machine
    job.model.peft_config["default"].base_model_name_or_path = base_model(job.params)
    job.model.save_pretrained(str(folder), save_embedding_layers=False)  # they are not trained
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    shutil.copy(job.log.path, folder / "log.jsonl")


def training_summary(method: str, job: Job, phases: list[Phase], folder: Path) -> dict:
    """The cost of training the adapter in `folder`."""
    return {
        "method": method,
        "minutes": job.log.minutes(),
        "num_steps": sum(phase.max_steps for phase in phases),
        "num_samples": sum(phase.max_steps * phase.samples_per_step for phase in phases),
        "num_clips": len(job.examples),
        "num_teacher_tokens": sum(len(example.completion_ids) for example in job.examples),
        "peak_memory_gb": psutil.Process().memory_info().rss / 1e9,
        "adapter_sha256": sha256(folder / "adapter_model.safetensors"),
    }


if __name__ == "__main__":
    main(run)
