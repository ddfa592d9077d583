"""The student: a frozen Whisper transcribes, a vocabulary bridge carries its posteriors to a causal LM, which
answers.

Shape letters: B batch, T prompt positions, C completion positions, K alternatives a position, D the language
model's width, H the audio tower's width, V the language model's vocabulary.
"""

import atexit
import gc
import warnings

from transformers.utils import logging

# PEFT causes it at every load
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
logging.disable_progress_bar()  # a bar for each of a dozen loads hides the bars of the long work
# without it the interpreter goes through all of torch again before it ends: over a second
atexit.register(gc.freeze)
