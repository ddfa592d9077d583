"""synthesize, features, validate, gate, base -> artifacts/align/<method>: a PEFT adapter, its log and its cost."""

import json
import shutil
from pathlib import Path

import psutil
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import TrainingArguments, set_seed

from speech_rba.assets import sha256
from speech_rba.model.language import fast_dtype
from speech_rba.model.student import Student
from speech_rba.params import Params
from speech_rba.stages import main, publish, workdir
from speech_rba.training.loop import Log, common, resume
from speech_rba.training.rba import RbaTrainer, reward_functions, weighted
from speech_rba.training.sft import SftTrainer, collate
from speech_rba.training.store import Example, load_examples

METHODS = ("sft", "rba")
PROJECTOR = "multi_modal_projector"


def run(
    params: Params, method: str, rows: Path, features: Path, validation: Path, gate: Path, base: Path, out: Path
) -> None:
    """The adapter of one method. A killed run goes on from its last checkpoint."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; allowed: {', '.join(METHODS)}")
    if not json.loads((gate / "gate.json").read_text())["passed"]:
        raise ValueError(f"{gate}/gate.json has not passed: look at the validation report")
    work = workdir("align", method, params.align, params.assets, rows / "rows.jsonl", features / "heard.safetensors",
                   validation / "accepted.jsonl", base)  # fmt: skip
    student = Student.from_pretrained(base, dtype=fast_dtype())
    examples = doubtful(load_examples(student, rows, features, validation, "train"), student)
    model = with_lora(student, params)
    sft_steps = params.align.sft.max_steps if method == "sft" else params.align.rba.warm_start_steps
    log = Log(work / "log.jsonl")
    train_sft(model, examples, params, sft_steps, work / "sft", log)
    num_samples = sft_steps * params.align.per_device_train_batch_size
    if method == "rba":
        train_rba(model, examples, params, work / "rba", log)
        num_samples += params.align.rba.max_steps * rba_batch(params)
    with publish(out) as folder:
        model.save_pretrained(folder, selected_adapters=["default"])  # not TRL's copy of the reference
        shutil.copy(work / "log.jsonl", folder / "log.jsonl")
        summary = {
            "method": method,
            "minutes": log.minutes(),
            "num_steps": sft_steps + (params.align.rba.max_steps if method == "rba" else 0),
            "num_samples": num_samples,
            "num_clips": len(examples),
            "num_teacher_tokens": sum(len(e.completion_ids) for e in examples),
            "peak_memory_gb": psutil.Process().memory_info().rss / 1e9,
            "adapter_sha256": sha256(folder / "adapter_model.safetensors"),
        }
        (folder / "training.json").write_text(json.dumps(summary, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    print(f"{method}: {summary['num_steps']} steps, {num_samples} samples, {summary['minutes']:.1f} minutes")


def doubtful(examples: list[Example], student: Student) -> list[Example]:
    """Those that the adapter will take part in.

    Raises:
        ValueError: there are none.
    """
    chosen = [example for example in examples if student.doubts(example.spoken)]
    if not chosen:
        raise ValueError(
            f"none of {len(examples)} training clips was heard with as much doubt as base.min_doubt, "
            f"{student.config.min_doubt}: lower it, or let voice make harder clips"
        )
    return chosen


def with_lora(student: Student, params: Params) -> PeftModel:
    """The student with trainable low-rank updates on the language model and the projector, all else frozen."""
    set_seed(params.align.seed)
    return get_peft_model(
        student,
        LoraConfig(
            r=params.align.lora_r,
            lora_alpha=params.align.lora_alpha,
            target_modules=[*params.align.lora_target_modules, PROJECTOR],
        ),
    )


def train_sft(model, examples: list[Example], params: Params, steps: int, work: Path, log: Log) -> None:
    """`steps` steps of supervised fine-tuning."""
    args = TrainingArguments(**common(work, **schedule(params, steps)), learning_rate=params.align.learning_rate,
                             per_device_train_batch_size=params.align.per_device_train_batch_size)  # fmt: skip
    resume(SftTrainer(model, args, data_collator=collate, train_dataset=examples, callbacks=[log]), log, "sft", steps)


def train_rba(model, examples: list[Example], params: Params, work: Path, log: Log) -> None:
    """Reinforcement from where the model is."""
    from trl import GRPOConfig

    from speech_rba.model.embedder import load_embedder

    settings = params.align.rba
    functions = reward_functions(model, examples, load_embedder(params.assets.embedder))
    reward_funcs, reward_weights = weighted(functions, settings)
    args = GRPOConfig(
        **common(work, **schedule(params, settings.max_steps)),
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=rba_batch(params),
        num_generations=settings.num_generations,
        steps_per_generation=1,
        temperature=settings.temperature,
        beta=settings.beta,
        max_completion_length=params.align.max_completion_tokens,
        reward_weights=reward_weights,
        gradient_checkpointing=False,
    )
    trainer = RbaTrainer(model, examples, args, reward_funcs, settings.dense_weight)
    trainer.add_callback(log)
    resume(trainer, log, "rba", settings.max_steps)


def schedule(params: Params, steps: int) -> dict:
    return {"steps": steps, "seed": params.align.seed, "save_steps": params.align.save_steps}


def rba_batch(params: Params) -> int:
    """Completions a reinforcement step: as many prompts as fill the batch once, each with its group."""
    size, group = params.align.per_device_train_batch_size * 2, params.align.rba.num_generations
    return max(group, size // group * group)


if __name__ == "__main__":
    main(run)
