"""Samples per second of a reinforcement step, this project's trainer against TRL's GRPO: `make bench`.

Both sample answers to the same written prompts from the same language model with the same adapter, reward
them for their length and update. They alternate, each in a new process after a warm-up. This project's
trainer computes the beginning of the chat once and a prompt once for its group, samples with
model/generation.py and the adapter in fewer operations, and computes logits for real tokens alone, a few rows
at a time.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer

from speech_rba.alignment.examples import Example
from speech_rba.alignment.methods.rba import RbaTrainer, samples_per_step
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params, load_params
from speech_rba.model.language import load_language_model, load_tokenizer
from speech_rba.model.student import build_student
from speech_rba.stages import keep_freed_memory

NUM_PAIRS, STEPS = 3, 2


def length(completion_ids, **_) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def grpo_config(params: Params, seed: int) -> GRPOConfig:
    align = params.align
    return GRPOConfig(
        tempfile.mkdtemp(),
        max_steps=STEPS,
        learning_rate=1e-6,
        per_device_train_batch_size=samples_per_step(align),
        num_generations=align.rba.num_generations,
        steps_per_generation=1,
        temperature=1.0,
        beta=0.0,
        max_completion_length=align.max_completion_tokens,
        gradient_checkpointing=False,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        save_strategy="no",
        seed=seed,
    )


def adapted(model: torch.nn.Module, params: Params):
    torch.manual_seed(0)
    align = params.align
    return get_peft_model(model, LoraConfig(r=align.lora_r, target_modules=list(align.lora_target_modules)))


def rba_trainer(questions: list[str], params: Params, seed: int) -> RbaTrainer:
    keep_freed_memory()  # as every stage does
    student = build_student(params.assets, params.base, None, fast_dtype())
    examples = [Example(None, None, prompt, prompt, []) for prompt in student.text_prompts(questions)]
    return RbaTrainer(adapted(student, params), examples, grpo_config(params, seed), [length], 0.0)


def trl_trainer(questions: list[str], params: Params, seed: int) -> GRPOTrainer:
    name = params.assets.language_model
    model, tokenizer = load_language_model(name, fast_dtype()), load_tokenizer(name)
    model.set_attn_implementation("sdpa")
    system = {"role": "system", "content": params.assets.system_prompt}
    chats = [{"prompt": [system, {"role": "user", "content": question}]} for question in questions]
    return GRPOTrainer(
        adapted(model, params),
        [length],
        grpo_config(params, seed),
        Dataset.from_list(chats),
        processing_class=tokenizer,
    )


TRAINERS = {"rba": rba_trainer, "trl": trl_trainer}


def seconds(side: str, seed: int) -> float:
    """The duration of STEPS steps, after as many to warm up."""
    params, build = load_params(), TRAINERS[side]
    topics = [topic for topic in Path("data/topics.txt").read_text().split("\n") if topic]
    questions = [f"Could you tell me something about {topic}?" for topic in topics[:64]]
    build(questions, params, seed + 100).train()
    trainer = build(questions, params, seed)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def measure(side: str, pair: int) -> float:
    """`seconds`, in a new process."""
    command = [sys.executable, __file__, side, str(pair)]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout
    return float(output.split()[-1])


def main() -> None:
    if sys.argv[1:]:
        print(seconds(sys.argv[1], int(sys.argv[2])))
        return
    num_samples, ratios = samples_per_step(load_params().align), []
    for pair in range(NUM_PAIRS):
        ours, trls = (STEPS * num_samples / measure(side, pair) for side in TRAINERS)
        ratios.append(ours / trls)
        print(f"{ours:.2f} against {trls:.2f} samples/s, {ratios[-1]:.2f} times", flush=True)
    median = statistics.median(ratios)
    print(f"a step of {num_samples} answers: median {median:.2f} times TRL's, n = {NUM_PAIRS}")


if __name__ == "__main__":
    main()
