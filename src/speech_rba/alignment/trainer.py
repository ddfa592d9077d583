"""The common parts of all trainings: phases, batches of similar lengths, a log, and resuming from a
checkpoint."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import Sampler
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from speech_rba.alignment.examples import Example
from speech_rba.compute.device import device
from speech_rba.config import Params

LENGTH_BUCKET = 4  # prompts that differ by fewer tokens share a batch


class TrainingLog(TrainerCallback):
    """Appends the logs of the trainer to a file that survives a kill; a repeated step replaces the rows after
    it."""

    def __init__(self, path: Path):
        self.path, self.phase = path, ""
        path.touch()
        self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def begin(self, phase: str, step: int) -> None:
        """The rows that the checkpoint at `step` does not cover are dropped, and the clock runs."""
        self.phase = phase
        self.rows = [row for row in self.rows if row["phase"] != phase or row["step"] <= step]
        self.before, self.started = self.minutes(), time.perf_counter()

    def minutes(self) -> float:
        return max((row["minutes"] for row in self.rows), default=0.0)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        minutes = self.before + (time.perf_counter() - self.started) / 60
        self.rows.append({"step": state.global_step, "phase": self.phase, "minutes": minutes, **logs})
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))


@dataclass(frozen=True)
class Job:
    """The input of a method; `work` holds the checkpoints of its phases."""

    model: PeftModel
    examples: list[Example]
    params: Params
    work: Path
    log: TrainingLog


@dataclass(frozen=True)
class Phase:
    """One training of a method. Its name stands in the log and names the folder of its checkpoints."""

    name: str
    build_trainer: Callable[[Job, dict[str, Any]], Trainer]  # from the arguments that every trainer shares
    max_steps: int
    learning_rate: float
    samples_per_step: int


def train_phase(job: Job, phase: Phase) -> None:
    """The job's model is trained by `phase`, from its last checkpoint if there is one."""
    align = job.params.align
    arguments = trainer_arguments(job.work / phase.name, phase.max_steps, align.seed, align.save_steps)
    arguments["learning_rate"] = phase.learning_rate
    arguments["per_device_train_batch_size"] = phase.samples_per_step
    train_from_checkpoint(phase.build_trainer(job, arguments), job.log, phase.name)


def trainer_arguments(folder: Path, max_steps: int, seed: int, save_steps: int) -> dict[str, Any]:
    """The trainer arguments that every training here shares; checkpoints go to `folder`."""
    return {
        "output_dir": str(folder),
        "max_steps": max_steps,
        "lr_scheduler_type": "linear",
        "warmup_steps": min(5, max_steps // 4),
        "seed": seed,
        "logging_steps": 1,
        "save_steps": save_steps,
        "save_total_limit": 1,
        "report_to": [],
        "remove_unused_columns": False,
        "use_cpu": device().type == "cpu",
        "dataloader_pin_memory": device().type == "cuda",
        "bf16": False,  # the frozen weights may be bfloat16; PEFT keeps the trained ones in float32
        "max_grad_norm": 1.0,
    }


def train_from_checkpoint(trainer: Trainer, log: TrainingLog, phase: str) -> None:
    """The trainer has reached its max_steps. It continues from its last checkpoint, which keeps the
    optimizer, the data order and the random state."""
    max_steps = trainer.args.max_steps
    if max_steps == 0:
        return
    folder = Path(str(trainer.args.output_dir))
    last = get_last_checkpoint(str(folder)) if folder.exists() else None
    done = int(last.rsplit("-", 1)[1]) if last else 0
    if last and done >= max_steps:  # train() would take one step more
        trainer._load_from_checkpoint(last)
        return
    log.begin(phase, done)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingBar(phase))
    trainer.train(resume_from_checkpoint=last)


class TrainingBar(ProgressCallback):
    """The trainer's progress bar, with the last loss and reward beside it in place of a line for each
    step."""

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


Loss = Callable[["DistillationTrainer", torch.nn.Module, dict[str, Any]], torch.Tensor]


class DistillationTrainer(Trainer):
    """transformers' Trainer over examples, with the loss of a method: loss(trainer, model, batch).

    The loss may put numbers into `metrics`; they are logged with the step.
    """

    def __init__(self, job: Job, arguments: dict[str, Any], collate: Callable, loss: Loss):
        self.loss, self.align, self.examples = loss, job.params.align, job.examples
        self.metrics: dict[str, float] = {}
        args = TrainingArguments(**arguments)
        super().__init__(
            job.model, args, data_collator=collate, train_dataset=job.examples, callbacks=[job.log]
        )

    @property
    def peft_model(self) -> PeftModel:
        """The model without the wrapper that accelerate puts around it on several devices."""
        return self.accelerator.unwrap_model(self.model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = self.loss(self, model, inputs)
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        super().log(logs | self.metrics if "loss" in logs else logs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset=None) -> "SimilarLengthSampler":
        return SimilarLengthSampler(self.examples, self._train_batch_size, self.args.seed)


class SimilarLengthSampler(Sampler):
    """Every example once: each `batch_size` in a row have similar lengths, and the batches come in random
    order.

    In batches of random examples 40 % of the tokens are padding.
    """

    def __init__(self, examples: list[Example], batch_size: int, seed: int):
        self.lengths = [(len(e.spoken.ids) // LENGTH_BUCKET, len(e.completion_ids)) for e in examples]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        order.sort(key=lambda place: self.lengths[place])
        num_full = len(self) // self.batch_size
        batches = torch.randperm(num_full, generator=generator).tolist()
        for batch in [*batches, num_full]:  # the incomplete batch comes last
            yield from order[batch * self.batch_size : (batch + 1) * self.batch_size]
