"""On-policy distillation (arXiv 2306.13649): the teacher's distribution at each token of the student's
answers."""

from typing import Any

import torch

from speech_rba.alignment.methods import kd
from speech_rba.alignment.sampling import sampling_student
from speech_rba.alignment.trainer import DistillationTrainer, Job, Phase
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.logps import divergence, pad_right, sampling_kl


class Method:
    def phases(self, job: Job) -> list[Phase]:
        align = job.params.align
        schedule = align.opd.max_steps, align.opd.learning_rate
        return [Phase("opd", self.build_trainer, *schedule, align.per_device_train_batch_size)]

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> DistillationTrainer:
        return DistillationTrainer(job, arguments, kd.collate, loss)


def loss(trainer: DistillationTrainer, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """KL(student || teacher) on answers that the student samples."""
    peft_model, spoken = trainer.peft_model, batch["prompts"]
    completions, sampler_logps_N = sample_answers(trainer, spoken)
    ids, mask = (t.to(peft_model.device) for t in pad_right(completions, completions[0][-1]))
    owners = torch.arange(len(spoken), device=ids.device)
    answers = {"owners_B": owners, "completion_ids_BC": ids, "completion_mask_BC": mask}
    with torch.no_grad(), peft_model.disable_adapter():
        teacher_hidden = peft_model(prompts=batch["written"], **answers)
    logits = peft_model.head(model(prompts=spoken, **answers))
    sampled_ids = ids[mask.bool()][:, None]
    policy_logps_N = logits.detach().float().log_softmax(-1).gather(1, sampled_ids)[:, 0]
    trainer.metrics["sampling/kl"] = sampling_kl(sampler_logps_N, policy_logps_N)
    return divergence(logits, peft_model.head(teacher_hidden)).mean()


def sample_answers(
    trainer: DistillationTrainer, spoken: list[SoftTokens]
) -> tuple[list[list[int]], torch.Tensor]:
    """One answer to each prompt, sampled from the student, and the sampler's log-probability of each of the N
    tokens, (N,). A step that is repeated after a kill samples the same answers."""
    seed = trainer.args.seed * 1_000_003 + trainer.state.global_step
    logps: list[list[float]] = []
    with sampling_student(trainer.peft_model) as student:
        answers = student.answer(
            spoken,
            batch_size=len(spoken),
            max_new_tokens=trainer.align.max_completion_tokens,
            temperature=1.0,
            top_p=1.0,
            seed=seed,
            logps=logps,
        )
    return answers, torch.tensor([logp for row in logps for logp in row])
