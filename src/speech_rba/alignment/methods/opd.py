"""On-policy distillation (arXiv 2306.13649): at each token of the student's own answers, to be as the teacher."""

import torch
from peft import PeftModel
from transformers import Trainer

from speech_rba.alignment.sampling import sampler
from speech_rba.alignment.trainer import DistillationTrainer
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.logps import divergence, pad_right, sampling_kl


class OpdTrainer(DistillationTrainer):
    """The loss is KL(student || teacher) on answers sampled from the student."""

    def __init__(self, *args, max_new_tokens: int, **kwargs):
        self.max_new_tokens = max_new_tokens
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped, spoken = self.accelerator.unwrap_model(model), inputs["prompts"]
        completions, sampler_logps = own_answers(self, unwrapped, spoken)
        ids, mask = pad_right(completions, completions[0][-1])
        sampled = {
            "owners_B": torch.arange(len(spoken)),
            "completion_ids_BC": ids,
            "completion_mask_BC": mask,
        }
        with torch.no_grad(), unwrapped.disable_adapter():
            teacher = unwrapped(prompts=inputs["written"], **sampled)
        logits = unwrapped.head(model(prompts=spoken, **sampled))
        drawn = logits.detach().float().log_softmax(-1).gather(1, ids[mask.bool()][:, None])[:, 0]
        self.metrics["sampling/kl"] = sampling_kl(sampler_logps, drawn)
        loss = divergence(logits, unwrapped.head(teacher)).mean()
        return (loss, {}) if return_outputs else loss


def own_answers(
    trainer: Trainer, model: PeftModel, spoken: list[SoftTokens]
) -> tuple[list[list[int]], torch.Tensor]:
    """One answer to each prompt, sampled from the student as it is, and the sampler's log-probability of each of the N
    tokens, (N,); the same at the same step, also after a kill."""
    seed = trainer.args.seed * 1_000_003 + trainer.state.global_step
    sampling = {"max_new_tokens": trainer.max_new_tokens, "temperature": 1.0, "top_p": 1.0, "seed": seed}
    logps: list[list[float]] = []
    with sampler(model) as student:
        answers = student.answer(spoken, batch_size=len(spoken), logps=logps, **sampling)
    return answers, torch.tensor([logp for row in logps for logp in row])
