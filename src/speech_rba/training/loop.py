"""What every training shares: the trainer's arguments, a log, and how it goes on after a kill."""

import json
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint


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
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

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
    trainer.train(resume_from_checkpoint=last)
