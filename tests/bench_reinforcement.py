"""Samples per second of a reinforcement step, ours against TRL's GRPO as it comes: `make bench`.

Both sample answers to the same written prompts from the same language model with the same adapter, reward them for
their length and update; in turn, pair by pair. Ours computes a chat's beginning once and a prompt once for its group,
samples with its own engine and makes logits for real tokens alone.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer

from speech_rba.model.language import fast_dtype, load_language_model, load_tokenizer
from speech_rba.model.student import Student, untrained
from speech_rba.params import Params, load_params
from speech_rba.stages.align import rba_batch
from speech_rba.training.rba import RbaTrainer
from speech_rba.training.store import Example

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


def ours(student: Student, questions: list[str], params: Params, seed: int) -> RbaTrainer:
    examples = [Example(None, None, prompt, prompt, []) for prompt in student.read(questions)]
    return RbaTrainer(adapted(student, params), examples, settings(params, seed), [length], 0.0)


def theirs(model, tokenizer, questions: list[str], params: Params, seed: int) -> GRPOTrainer:
    system = {"role": "system", "content": params.assets.system_prompt}
    chats = [{"prompt": [system, {"role": "user", "content": question}]} for question in questions]
    return GRPOTrainer(
        adapted(model, params), [length], settings(params, seed), Dataset.from_list(chats), processing_class=tokenizer
    )


def seconds(trainer) -> float:
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    params, name = load_params(), load_params().assets.language_model
    topics = [topic for topic in Path("data/topics.txt").read_text().split("\n") if topic]
    questions = [f"Could you tell me something about {topic}?" for topic in topics[:64]]
    samples, ratios = STEPS * rba_batch(params), []
    for pair in range(NUM_PAIRS + 1):  # the first warms up
        mine = seconds(ours(untrained(params.assets, params.base, None, fast_dtype()), questions, params, pair))
        stock = load_language_model(name, fast_dtype())
        stock.set_attn_implementation("sdpa")
        rival = seconds(theirs(stock, load_tokenizer(name), questions, params, pair))
        if pair:
            ratios.append(rival / mine)
            print(f"{samples / mine:.2f} against {samples / rival:.2f} samples/s, {ratios[-1]:.2f} times", flush=True)
    print(f"a step of {rba_batch(params)} answers: median {statistics.median(ratios):.2f} times TRL's, n = {NUM_PAIRS}")


if __name__ == "__main__":
    main()
