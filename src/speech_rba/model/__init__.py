"""The student: a frozen Whisper hears, a vocabulary bridge carries its posteriors over, a causal LM answers.

Shape letters: B batch, T prompt positions, C completion positions, K alternatives a position, D the language
model's width, H the audio tower's width, V the language model's vocabulary.
"""

import atexit
import gc
import warnings

from transformers.utils import logging

warnings.filterwarnings(
    "ignore", "`is_gradient_checkpointing` is deprecated"
)  # PEFT asks for it at every load
logging.disable_progress_bar()  # a bar for each of a dozen loads hides the bars of the long work
atexit.register(
    gc.freeze
)  # else the interpreter goes through all of torch again before it ends: over a second
