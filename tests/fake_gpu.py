"""A GPU for tests on a machine without one: an operation on tensors of two devices fails, as it does with
CUDA.

Every tensor stays in the CPU's memory. A tensor is on the fake GPU if it is marked so, and then its `device`
is `cuda`. The mode sees each call of PyTorch's Python interface, strips `device` from it and marks the
result.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda")
CPU = torch.device("cpu")
CONVERSIONS = {"Tensor.to", "Tensor.cpu", "Tensor.cuda"}
BETWEEN_DEVICES = {
    "Tensor.copy_",
    "Tensor.view_as",
    "Tensor.expand_as",
    "Tensor.reshape_as",
}  # CUDA allows them
ON_THE_CPU_ALONE = {"Tensor.numpy", "Tensor.__array__"}


def on_gpu(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "_on_fake_gpu", False)


def put_on_gpu(*modules: torch.nn.Module) -> None:
    """The parameters and buffers of the modules are on the fake GPU."""
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor._on_fake_gpu = True


def marked(tensor: torch.Tensor, gpu: bool) -> torch.Tensor:
    tensor._on_fake_gpu = gpu
    return tensor


def as_device(value) -> torch.device | None:
    """The device that an argument names; None for any other argument."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda", "meta"):
        return torch.device(value)
    return None


class FakeGpu(TorchFunctionMode):
    """Inside this mode an operation raises RuntimeError that gets tensors of the CPU and of the fake GPU.

    A tensor without dimensions may meet any other, as with CUDA.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = (resolve_name(func) or getattr(func, "__name__", "")).removeprefix("torch.")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name.endswith("__get__") or name.endswith("__set__"):
            return self.attribute(func, args)
        if name in CONVERSIONS:
            return self.convert(func, name, args, kwargs)
        if name in ON_THE_CPU_ALONE and on_gpu(args[0]):
            raise RuntimeError(f"{name} of a tensor on the GPU")
        if name not in BETWEEN_DEVICES:
            check(name, tensors)
        device = kwargs.get("device")
        gpu = any(map(on_gpu, tensors)) if device is None else torch.device(device).type == "cuda"
        if device is not None and gpu:
            kwargs["device"] = CPU
        result = func(*args, **kwargs)
        return tree_map(lambda x: marked(x, gpu) if isinstance(x, torch.Tensor) else x, result)

    def attribute(self, func, args):
        owner = args[0] if args else None
        if func == torch.Tensor.device.__get__:
            return GPU if on_gpu(owner) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:
            return on_gpu(owner)
        result = func(*args)
        return marked(result, on_gpu(owner)) if isinstance(result, torch.Tensor) else result

    def convert(self, func, name, args, kwargs):
        """A tensor in another dtype or on another device: a copy, where the original keeps its device."""
        tensor, *rest = args
        device = {"Tensor.cpu": CPU, "Tensor.cuda": GPU}.get(name) or as_device(kwargs.pop("device", None))
        others = [x for x in rest if isinstance(x, torch.Tensor)]
        devices = [as_device(x) for x in rest if as_device(x)] + [GPU if on_gpu(x) else CPU for x in others]
        device = device or (devices[0] if devices else GPU if on_gpu(tensor) else CPU)
        dtypes = [x for x in (*rest, kwargs.get("dtype")) if isinstance(x, torch.dtype)]
        dtypes += [x.dtype for x in others] or [tensor.dtype]
        result = torch.Tensor.to(tensor, dtypes[0], copy=bool(kwargs.get("copy", False)))
        gpu = device.type == "cuda"
        return marked(result.clone() if result is tensor and gpu != on_gpu(tensor) else result, gpu)


def check(name: str, tensors: list[torch.Tensor]) -> None:
    """Raises RuntimeError if tensors with dimensions are of two devices."""
    shapes = {gpu: [tuple(x.shape) for x in tensors if x.dim() and on_gpu(x) == gpu] for gpu in (True, False)}
    if shapes[True] and shapes[False]:
        raise RuntimeError(f"{name} gets tensors of the GPU, {shapes[True]}, and of the CPU, {shapes[False]}")


@contextlib.contextmanager
def fake_gpu(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, `modules` are on the fake GPU; afterwards they are on the CPU again."""
    put_on_gpu(*modules)
    try:
        with FakeGpu():
            yield
    finally:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensor._on_fake_gpu = False
