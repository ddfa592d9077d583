"""What every training shares: batches of like lengths, the trainer's arguments, a log, and going on after a kill."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from speech_rba.alignment.examples import Example

LIKE = 4  # prompts that differ by fewer tokens share a batch


class LikeLengths(Sampler):
    """Every example once; each `batch_size` in a row have like prompts and completions, and follow by chance.

    In batches by chance 40 % of the tokens are padding.
    """

    def __init__(self, examples: list[Example], batch_size: int, seed: int):
        self.lengths = [(len(e.spoken.ids) // LIKE, len(e.completion_ids)) for e in examples]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        order.sort(key=lambda i: self.lengths[i])
        whole = len(self) // self.batch_size
        for batch in [
            *torch.randperm(whole, generator=generator).tolist(),
            whole,
        ]:  # what is left over comes last
            yield from order[batch * self.batch_size : (batch + 1) * self.batch_size]


class DistillationTrainer(Trainer):
    """transformers' Trainer over examples in batches of like lengths; `metrics` are logged with the step's loss."""

    def __init__(self, *args, **kwargs):
        self.metrics: dict[str, float] = {}
        super().__init__(*args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        super().log(logs | self.metrics if "loss" in logs else logs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: list[Example] | None = None) -> LikeLengths:
        return LikeLengths(train_dataset or self.train_dataset, self._train_batch_size, self.args.seed)


def common(work: Path, *, steps: int, seed: int, save_steps: int) -> dict:
    """The trainer arguments that every training here shares."""
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(5, steps // 4),
        "seed": seed,
        "logging_steps": 1,
        "save_steps": save_steps,
        "save_total_limit": 1,
        "report_to": [],
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "bf16": False,  # the frozen weights may be bfloat16; PEFT keeps the trained ones in float32
        "max_grad_norm": 1.0,
    }


class Log(TrainerCallback):
    """Appends what the trainer logs to a file that outlives a kill; a step done again replaces what came after it."""

    def __init__(self, path: Path):
        self.path, self.phase = path, ""
        path.touch()
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def begin(self, phase: str, step: int) -> None:
        """Drops what the last checkpoint does not cover, and starts the clock."""
        self.phase = phase
        self.rows = [r for r in self.rows if r["phase"] != phase or r["step"] <= step]
        self.before, self.started = self.minutes(), time.perf_counter()

    def minutes(self) -> float:
        return max((row["minutes"] for row in self.rows), default=0.0)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        minutes = self.before + (time.perf_counter() - self.started) / 60
        self.rows.append({"step": state.global_step, "phase": self.phase, "minutes": minutes, **logs})
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))


class Bar(ProgressCallback):
    """The trainer's progress bar, with the last loss and reward beside it where the trainer writes a line a step."""

    def __init__(self, phase: str):
        super().__init__()
        self.phase = phase

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, desc=self.phase, dynamic_ncols=True)
        self.current_step = 0

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        shown = {name: f"{logs[name]:.3g}" for name in ("loss", "reward") if name in logs}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)


def resume(trainer: Trainer, log: Log, phase: str, steps: int) -> None:
    """Trains to the end from the last checkpoint, which keeps optimizer, data order and random state."""
    if steps == 0:
        return
    folder = Path(trainer.args.output_dir)
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    done = int(last.rsplit("-", 1)[1]) if last else 0
    if done >= steps:  # the trainer would take one step more
        trainer._load_from_checkpoint(last)
        return
    log.begin(phase, done)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar(phase))
    trainer.train(resume_from_checkpoint=last)
