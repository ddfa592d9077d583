"""synthesize, features, validate, gate, base -> artifacts/align/<method>: a PEFT adapter, its log and its cost."""

import json
import shutil
from pathlib import Path

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainingArguments, set_seed

from speech_rba.alignment.examples import Example, load_examples
from speech_rba.alignment.methods import kd, sft
from speech_rba.alignment.methods.dpo import DpoTrainer
from speech_rba.alignment.methods.kd import KdTrainer
from speech_rba.alignment.methods.opd import OpdTrainer
from speech_rba.alignment.methods.sft import SftTrainer
from speech_rba.alignment.trainer import Log, common, resume
from speech_rba.assets.resolve import sha256
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Distillation, Params
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
    """The adapter of one method. A killed run goes on from its last checkpoint."""
    if method not in params.align.methods:
        raise UserError(f"no method {method!r} in align.methods, {params.align.methods}: add it there")
    if not json.loads((gate / "gate.json").read_text())["passed"]:
        raise UserError(f"{gate}/gate.json has not passed: look at the validation report")
    work = workdir("align", params, method, rows, features, validation / "accepted.jsonl", gate, base)
    student = load_student(base, fast_dtype())
    examples = uncertain_examples(load_examples(student, rows, features, validation, "train"), student)
    model = with_lora(student, params)
    log, settings = Log(work / "log.jsonl"), params.align
    if settings.start_from:
        go_on_from(settings.start_from, model, base_model(params))
    if method == "rba":
        warm_start = settings.sft.model_copy(update={"max_steps": settings.rba.warm_start_steps})
        num_steps, num_samples = distill("sft", model, examples, params, warm_start, work / "sft", log)
        train_rba(model, examples, params, work / "rba", log)
        num_steps += settings.rba.max_steps
        num_samples += settings.rba.max_steps * rba_batch(params)
    else:
        wanted = getattr(settings, method)
        num_steps, num_samples = distill(method, model, examples, params, wanted, work / method, log)
    with publish(out, work) as folder:
        model.peft_config["default"].base_model_name_or_path = base_model(
            params
        )  # else a folder of this machine
        model.save_pretrained(folder, save_embedding_layers=False)  # they are not trained
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


def uncertain_examples(examples: list[Example], student: SpeechStudent) -> list[Example]:
    """Those heard in asr_uncertainty: of the others the student makes what its teacher reads.

    Raises:
        UserError: there are none.
    """
    chosen = [example for example in examples if student.is_uncertain(example.spoken)]
    if not chosen:
        raise UserError(
            f"none of {len(examples)} training clips was heard with as much asr_uncertainty as base.min_asr_uncertainty, "
            f"{student.config.min_asr_uncertainty}: lower it, or let voice make harder clips"
        )
    return chosen


def with_lora(student: SpeechStudent, params: Params) -> PeftModel:
    """The student with trainable low-rank updates, on its language model above all, and all else frozen.

    Raises:
        UserError: the language model has no layer of a name in align.lora_target_modules.
    """
    wanted, decoder = params.align.lora_target_modules, student.language_model.get_decoder()
    linear = {
        name.split(".")[-1] for name, module in decoder.named_modules() if type(module) is torch.nn.Linear
    }
    if unknown := [name for name in wanted if name not in linear]:
        raise UserError(
            f"align.lora_target_modules names {', '.join(unknown)}, which the language model does not have: "
            f"choose from {', '.join(sorted(linear))}"
        )
    set_seed(params.align.seed)
    targets = student.lora_targets(wanted)
    config = LoraConfig(r=params.align.lora_r, lora_alpha=params.align.lora_alpha, target_modules=targets)
    return get_peft_model(student, config)


def base_model(params: Params) -> str:
    """The asset that an adapter is an update of."""
    return params.assets.speech_llm or params.assets.language_model


def go_on_from(start_from: str, model: PeftModel, base: str) -> None:
    """`model` has the weights of a trained adapter, FOLDER#HASH.

    Raises:
        UserError: there is none, it holds something else than HASH says, or it is of another model or shape.
    """
    folder, _, expected = start_from.rpartition("#")
    weights, config = (Path(folder) / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    if not weights.exists() or not config.exists():
        raise UserError(
            f"align.start_from, {folder}, holds no adapter: name another folder, or null to start anew"
        )
    if (found := sha256(weights)[:16]) != expected:
        raise UserError(
            f"align.start_from names {folder} as it was with {expected}; it now holds {found}: bring that adapter "
            f"back, or write {folder}#{found}"
        )
    own = model.peft_config["default"].to_dict() | {"base_model_name_or_path": base}
    fits(json.loads(config.read_text()), own, folder)
    state = load_file(weights)
    wanted = {name: weight.shape for name, weight in get_peft_model_state_dict(model).items()}
    if wrong := wanted.items() ^ {name: weight.shape for name, weight in state.items()}.items():
        raise UserError(
            f"{folder} is of a model of another size: {', '.join(sorted({name for name, _ in wrong})[:3])}"
        )
    set_peft_model_state_dict(model, state)


def fits(config: dict, own: dict, folder: str) -> None:
    """Raises UserError where the adapter_config of `folder` is not our own."""
    names = {
        "base_model_name_or_path": "assets.speech_llm or language_model",
        "r": "align.lora_r",
        "lora_alpha": "align.lora_alpha",
        "target_modules": "align.lora_target_modules",
    }
    for key, name in names.items():
        theirs, ours = (sorted(x) if isinstance(x, list | set) else x for x in (config.get(key), own[key]))
        if theirs != ours:
            raise UserError(
                f"{folder} does not fit {name}: it has {key} {theirs}, this run {ours}; set align.start_from to null, "
                f"or {name} to the adapter's"
            )


def distill(
    method: str,
    model: PeftModel,
    examples: list[Example],
    params: Params,
    wanted: Distillation,
    work: Path,
    log: Log,
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
            OpdTrainer(model, args, **data)
            if method == "opd"
            else DpoTrainer(model, args, beta=wanted.beta, **data)
        )
    resume(trainer, log, method, wanted.max_steps)
    return wanted.max_steps, wanted.max_steps * batch


def train_rba(model, examples: list[Example], params: Params, work: Path, log: Log) -> None:
    """Reinforcement from where the model is.

    Raises:
        UserError: there are fewer clips than a step takes.
    """
    from trl import GRPOConfig

    from speech_rba.alignment.methods.rba import RbaTrainer, reward_functions, weighted

    settings = params.align.rba
    if len(examples) < (needed := rba_batch(params) // settings.num_generations):
        raise UserError(
            f"a step of rba takes {needed} clips, and {len(examples)} were heard in asr_uncertainty: lower "
            "align.per_device_train_batch_size or base.min_asr_uncertainty, or raise align.rba.num_generations"
        )
    functions = reward_functions(model, examples, params.assets.embedder)
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
    trainer = RbaTrainer(model, examples, args, reward_funcs, settings.kl_coef)
    trainer.add_callback(log)
    resume(trainer, log, "rba", settings.max_steps)


def schedule(params: Params, steps: int) -> dict:
    return {"steps": steps, "seed": params.align.seed, "save_steps": params.align.save_steps}


def rba_batch(params: Params) -> int:
    """Completions a reinforcement step, which groups of `num_generations` fill (params.py)."""
    return 2 * params.align.per_device_train_batch_size


if __name__ == "__main__":
    main(run)
