"""Direct preference optimization (arXiv 2305.18290): the teacher's answer is preferred to the student's."""

from typing import Any

import torch

from speech_rba.alignment.methods import sft
from speech_rba.alignment.methods.opd import sample_answers
from speech_rba.alignment.trainer import DistillationTrainer, Job, Phase
from speech_rba.model.logps import completion_logps, pad_right, sampling_kl


class Method:
    def phases(self, job: Job) -> list[Phase]:
        align = job.params.align
        schedule = align.dpo.max_steps, align.dpo.learning_rate
        return [Phase("dpo", self.build_trainer, *schedule, align.per_device_train_batch_size)]

    def build_trainer(self, job: Job, arguments: dict[str, Any]) -> DistillationTrainer:
        return DistillationTrainer(job, arguments, sft.collate, loss)


def loss(trainer: DistillationTrainer, model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """-log sigmoid(beta * margin): by how many nats the teacher's answer (chosen) has gained on a fresh
    sample of the student's (rejected) since the student had no adapter. Both answers share their prompt."""
    peft_model, spoken = trainer.peft_model, batch["prompts"]
    kept = batch["completion_mask_BC"].bool()
    chosen = [ids[mask].tolist() for ids, mask in zip(batch["completion_ids_BC"], kept, strict=True)]
    rejected, sampler_logps_N = sample_answers(trainer, spoken)
    ids, mask = (t.to(peft_model.device) for t in pad_right(chosen + rejected, chosen[0][-1]))
    owners = torch.arange(len(spoken), device=ids.device).repeat(2)
    pairs = {"prompts": spoken, "owners_B": owners, "completion_ids_BC": ids, "completion_mask_BC": mask}
    with torch.no_grad(), peft_model.disable_adapter():
        ref_logps = completion_logps(peft_model(**pairs), peft_model.head, ids, mask)[0].sum(1)
    logps = completion_logps(model(**pairs), peft_model.head, ids, mask)[0]
    policy_logps_N = logps.detach()[len(spoken) :][mask[len(spoken) :].bool()]
    trainer.metrics["sampling/kl"] = sampling_kl(sampler_logps_N, policy_logps_N)
    chosen_gain, rejected_gain = (logps.sum(1) - ref_logps).split(len(spoken))
    margin = chosen_gain - rejected_gain
    return -torch.nn.functional.logsigmoid(trainer.align.dpo.beta * margin).mean()
