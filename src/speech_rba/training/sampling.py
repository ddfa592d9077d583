"""Sampling from a model in training."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from speech_rba.model.speech_student import SpeechStudent


@contextmanager
def sampler(model: PeftModel) -> Iterator[SpeechStudent]:
    """The student with its adapter merged into its weights, which saves the adapter's own operations at each token.

    Afterwards the weights are what they were to the bit: to subtract the adapter again would leave its rounding.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.data.clone() for weight in weights]
    was_training = model.training
    model.eval()
    model.merge_adapter()
    try:
        yield model.base_model.model
    finally:
        for layer, weight, before in zip(layers, weights, kept, strict=True):
            weight.data = before
            layer.merged_adapters.clear()
        model.train(was_training)
