"""synthesize, features, validate, gate, base -> artifacts/align/<method>: a PEFT adapter, its log and its cost."""

import json
import shutil
from pathlib import Path

import psutil
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainingArguments, set_seed

from speech_rba.assets import sha256
from speech_rba.errors import UserError
from speech_rba.model.language import fast_dtype
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.students import load_student
from speech_rba.params import Distillation, Params
from speech_rba.stages import main, publish, workdir
from speech_rba.training import kd, sft
from speech_rba.training.dpo import DpoTrainer
from speech_rba.training.kd import KdTrainer
from speech_rba.training.loop import Log, common, resume
from speech_rba.training.opd import OpdTrainer
from speech_rba.training.sft import SftTrainer
from speech_rba.training.store import Example, load_examples


def run(
    params: Params, method: str, rows: Path, features: Path, validation: Path, gate: Path, base: Path, out: Path
) -> None:
    """The adapter of one method. A killed run goes on from its last checkpoint."""
    if method not in params.align.methods:
        raise UserError(f"no method {method!r} in align.methods, {params.align.methods}: add it there")
    if not json.loads((gate / "gate.json").read_text())["passed"]:
        raise UserError(f"{gate}/gate.json has not passed: look at the validation report")
    work = workdir("align", method, params.align, params.assets, rows / "rows.jsonl", features / "heard.safetensors",
                   validation / "accepted.jsonl", base)  # fmt: skip
    student = load_student(base, fast_dtype())
    examples = doubtful(load_examples(student, rows, features, validation, "train"), student)
    model = with_lora(student, params)
    log, settings = Log(work / "log.jsonl"), params.align
    if settings.start_from:
        go_on_from(Path(settings.start_from), model)
    if method == "rba":
        warm_start = settings.sft.model_copy(update={"max_steps": settings.rba.warm_start_steps})
        num_steps, num_samples = distill("sft", model, examples, params, warm_start, work / "sft", log)
        train_rba(model, examples, params, work / "rba", log)
        num_steps += settings.rba.max_steps
        num_samples += settings.rba.max_steps * rba_batch(params)
    else:
        wanted = getattr(settings, method)
        num_steps, num_samples = distill(method, model, examples, params, wanted, work / method, log)
    with publish(out) as folder:
        model.save_pretrained(folder, selected_adapters=["default"])  # not TRL's copy of the reference
        shutil.copy(work / "log.jsonl", folder / "log.jsonl")
        summary = {
            "method": method,
            "minutes": log.minutes(),
            "num_steps": num_steps,
            "num_samples": num_samples,
            "num_clips": len(examples),
            "num_teacher_tokens": sum(len(e.completion_ids) for e in examples),
            "peak_memory_gb": psutil.Process().memory_info().rss / 1e9,
            "adapter_sha256": sha256(folder / "adapter_model.safetensors"),
        }
        (folder / "training.json").write_text(json.dumps(summary, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    print(f"{method}: {num_steps} steps, {num_samples} samples, {summary['minutes']:.1f} minutes")


def doubtful(examples: list[Example], student: SpeechStudent) -> list[Example]:
    """Those heard in doubt: of the others the student makes what its teacher reads.

    Raises:
        UserError: there are none.
    """
    chosen = [example for example in examples if student.doubts(example.spoken)]
    if not chosen:
        raise UserError(
            f"none of {len(examples)} training clips was heard with as much doubt as base.min_doubt, "
            f"{student.config.min_doubt}: lower it, or let voice make harder clips"
        )
    return chosen


def with_lora(student: SpeechStudent, params: Params) -> PeftModel:
    """The student with trainable low-rank updates, on its language model above all, and all else frozen."""
    set_seed(params.align.seed)
    return get_peft_model(
        student,
        LoraConfig(
            r=params.align.lora_r,
            lora_alpha=params.align.lora_alpha,
            target_modules=student.lora_targets(params.align.lora_target_modules),
        ),
    )


def go_on_from(adapter: Path, model: PeftModel) -> None:
    """`model` has the weights of a trained adapter.

    Raises:
        UserError: there is none, or it is of another shape.
    """
    if not (adapter / "adapter_model.safetensors").exists():
        raise UserError(f"align.start_from, {adapter}, holds no adapter: name another folder, or null to start anew")
    try:
        found = set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{adapter} does not fit align.lora_r and lora_target_modules: {error}") from error
    if found.unexpected_keys:
        raise UserError(f"{adapter} does not fit align.lora_target_modules: {', '.join(found.unexpected_keys[:3])}")


def distill(
    method: str, model: PeftModel, examples: list[Example], params: Params, wanted: Distillation, work: Path, log: Log
) -> tuple[int, int]:
    """Trains by `method` for as long as is `wanted`; how many steps and samples that is."""
    batch = params.align.per_device_train_batch_size
    args = TrainingArguments(**common(work, **schedule(params, wanted.max_steps)), learning_rate=wanted.learning_rate,
                             per_device_train_batch_size=batch)  # fmt: skip
    data = {"train_dataset": examples, "callbacks": [log]}
    if method == "sft":
        trainer = SftTrainer(model, args, data_collator=sft.collate, **data)
    elif method == "kd":
        trainer = KdTrainer(model, args, data_collator=kd.collate, **data)
    else:
        data |= {"data_collator": kd.collate, "max_new_tokens": params.align.max_completion_tokens}
        trainer = (
            OpdTrainer(model, args, **data) if method == "opd" else DpoTrainer(model, args, beta=wanted.beta, **data)
        )
    resume(trainer, log, method, wanted.max_steps)
    return wanted.max_steps, wanted.max_steps * batch


def train_rba(model, examples: list[Example], params: Params, work: Path, log: Log) -> None:
    """Reinforcement from where the model is."""
    from trl import GRPOConfig

    from speech_rba.model.embedder import load_embedder
    from speech_rba.training.rba import RbaTrainer, reward_functions, weighted

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
