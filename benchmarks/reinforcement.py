"""Samples per second of a reinforcement step, ours against TRL's GRPO as it comes: `make bench`.

Both sample answers to the same written prompts from the same language model with the same adapter, reward them for
their length and update; in turn, pair by pair, each in a process of its own that has warmed up. Ours computes a chat's
beginning once and a prompt once for its group, samples with its own engine and the adapter in fewer operations,
and makes logits for real tokens alone, a few rows at a time.
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
from speech_rba.alignment.methods.rba import RbaTrainer
from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params, load_params
from speech_rba.model.language import load_language_model, load_tokenizer
from speech_rba.model.student import build_student
from speech_rba.stages import keep_freed_memory
from speech_rba.stages.align import rba_batch

NUM_PAIRS, STEPS = 3, 2


def length(completion_ids, **_) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def settings(params: Params, seed: int) -> GRPOConfig:
    return GRPOConfig(
        tempfile.mkdtemp(), max_steps=STEPS, learning_rate=1e-6, per_device_train_batch_size=rba_batch(params),
        num_generations=params.align.rba.num_generations, steps_per_generation=1, temperature=1.0, beta=0.0,
        max_completion_length=params.align.max_completion_tokens, gradient_checkpointing=False, report_to=[],
        use_cpu=not torch.cuda.is_available(), bf16=False, save_strategy="no", seed=seed,
    )  # fmt: skip


def adapted(model: torch.nn.Module, params: Params):
    torch.manual_seed(0)
    return get_peft_model(
        model, LoraConfig(r=params.align.lora_r, target_modules=list(params.align.lora_target_modules))
    )


def ours(questions: list[str], params: Params, seed: int) -> RbaTrainer:
    keep_freed_memory()  # as every stage does
    student = build_student(params.assets, params.base, None, fast_dtype())
    examples = [Example(None, None, prompt, prompt, []) for prompt in student.text_prompts(questions)]
    return RbaTrainer(adapted(student, params), examples, settings(params, seed), [length], 0.0)


def theirs(questions: list[str], params: Params, seed: int) -> GRPOTrainer:
    name = params.assets.language_model
    model, tokenizer = load_language_model(name, fast_dtype()), load_tokenizer(name)
    model.set_attn_implementation("sdpa")
    system = {"role": "system", "content": params.assets.system_prompt}
    chats = [{"prompt": [system, {"role": "user", "content": question}]} for question in questions]
    return GRPOTrainer(
        adapted(model, params),
        [length],
        settings(params, seed),
        Dataset.from_list(chats),
        processing_class=tokenizer,
    )


def seconds(side: str, seed: int) -> float:
    """What STEPS steps take, after as many to warm up."""
    params, make = load_params(), {"ours": ours, "theirs": theirs}[side]
    topics = [topic for topic in Path("data/topics.txt").read_text().split("\n") if topic]
    questions = [f"Could you tell me something about {topic}?" for topic in topics[:64]]
    make(questions, params, seed + 100).train()
    trainer = make(questions, params, seed)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    if sys.argv[1:]:
        print(seconds(sys.argv[1], int(sys.argv[2])))
        return
    answers, ratios = rba_batch(load_params()), []
    for pair in range(NUM_PAIRS):
        took = {}
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, side, str(pair)]
            said = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            took[side] = float(said.stdout.split()[-1])
        speeds = [STEPS * answers / took[side] for side in ("ours", "theirs")]
        ratios.append(speeds[0] / speeds[1])
        print(f"{speeds[0]:.2f} against {speeds[1]:.2f} samples/s, {ratios[-1]:.2f} times", flush=True)
    print(f"a step of {answers} answers: median {statistics.median(ratios):.2f} times TRL's, n = {NUM_PAIRS}")


if __name__ == "__main__":
    main()
