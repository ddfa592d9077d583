"""Direct preference optimization (arXiv 2305.18290): the teacher's answer rather than the student's own."""

import torch

from speech_rba.alignment.methods.opd import own_answers
from speech_rba.alignment.trainer import DistillationTrainer
from speech_rba.model.logps import completion_logps, pad_right, sampling_kl


class DpoTrainer(DistillationTrainer):
    """The loss is -log sigmoid(beta * margin): by how many nats the teacher's answer has gained on a fresh sample of
    the student's, since the student had no adapter. Both answers share their prompt."""

    def __init__(self, *args, max_new_tokens: int, beta: float, **kwargs):
        self.max_new_tokens, self.beta = max_new_tokens, beta
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped, spoken = self.accelerator.unwrap_model(model), inputs["prompts"]
        kept = inputs["completion_mask_BC"].bool()
        chosen = [ids[mask].tolist() for ids, mask in zip(inputs["completion_ids_BC"], kept, strict=True)]
        own, sampler_logps = own_answers(self, unwrapped, spoken)
        ids, mask = pad_right(chosen + own, chosen[0][-1])
        owners = torch.arange(len(spoken)).repeat(2)
        both = {"prompts": spoken, "owners_B": owners, "completion_ids_BC": ids, "completion_mask_BC": mask}
        with torch.no_grad(), unwrapped.disable_adapter():
            before = completion_logps(unwrapped(**both), unwrapped.head, ids, mask)[0].sum(1)
        logps = completion_logps(model(**both), unwrapped.head, ids, mask)[0]
        drawn = logps.detach()[len(spoken) :][mask[len(spoken) :].bool()]
        self.metrics["sampling/kl"] = sampling_kl(sampler_logps, drawn)
        gained, lost = (logps.sum(1) - before).split(len(spoken))
        loss = -torch.nn.functional.logsigmoid(self.beta * (gained - lost)).mean()
        return (loss, {}) if return_outputs else loss
