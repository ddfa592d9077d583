"""Imports transformers for answering alone: without the parts that compile, distribute and train."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
WRAPPED = f"{COMPILER}._trace_wrapped_higher_order_op"
PREDICATES = ("is_scipy_available", "is_torch_distributed_available", "is_accelerate_available")


def import_transformers() -> None:
    """Transformers' model classes are imported, in a third of the time; nothing changes where they are.

    They import torch's compiler with sympy, torch.distributed and scipy: 2.5 of 3 s of processor time. A
    process that only answers uses none of these. So it is as if scipy, accelerate and torch.distributed were
    not installed, and the compiler's decorators return their function, until the classes are imported. A
    process that trains does not call this.
    """
    if "transformers.modeling_utils" in sys.modules or COMPILER in sys.modules:
        return
    import torch
    import transformers.utils

    compiler, wrapped = ModuleType(COMPILER), ModuleType(WRAPPED)
    vars(compiler).update(dict.fromkeys(("disable", "allow_in_graph", "assume_constant_result"), _unchanged))
    vars(wrapped)["TransformGetItemToIndex"] = None  # for masks made by vmap, which none here is
    predicates = dict.fromkeys(PREDICATES, _no)
    with (
        _replaced(sys.modules, {COMPILER: compiler, WRAPPED: wrapped}),
        _replaced(vars(torch), {"_dynamo": compiler}),
        _replaced(vars(transformers.utils), predicates),
        _replaced(vars(transformers.utils.import_utils), predicates),
    ):
        import transformers.masking_utils
        import transformers.modeling_utils


def _no() -> bool:
    return False


def _unchanged(function=None, *args, **kwargs):
    return function if function else lambda decorated: decorated


@contextmanager
def _replaced(names: dict[str, Any], replacements: dict[str, Any]) -> Iterator[None]:
    """A context in which `names` has these values; others that it gains remain."""
    before = {name: names[name] for name in replacements if name in names}
    names.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            names.pop(name, None)
        names.update(before)
