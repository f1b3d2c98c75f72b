"""A device without values: reading one fails where it happens, and every other wait of the host is noted.

PyTorch's meta tensors stand for those of a GPU. They have shapes and gradients but no values, so `.item()`, `.cpu()`,
`int(...)`, `nonzero` and indexing by a mask raise. What they do not raise for is looked for here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import send_to_device
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class _Operations(TorchDispatchMode):
    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        name = operation.overloadpacket.__name__
        if any(value.device == DEVICE for value in made):
            from_host = [value for value in given if value.device.type == "cpu"]
            if name == "_to_copy" and from_host and not kwargs.get("non_blocking"):
                self.waits.append("a copy that blocks")
            if name == "copy_" and from_host and not (args[2] if len(args) > 2 else kwargs.get("non_blocking")):
                self.waits.append("a copy that blocks")
            if name.startswith("index") and any(value.dtype == torch.bool for value in given[1:]):
                self.waits.append("indexing by a mask")
        return result


class _Functions(TorchFunctionMode):
    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            self.waits.append("a tensor of numbers made on the device")
        return function(*args, **kwargs)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Notes why the host waits for the device."""
    found: list[str] = []
    with _Operations(found), _Functions(found):
        yield found


def on_device(trainer, batch: dict) -> dict:
    """A batch as the trainer's loader hands it out; the trainer is put on the device, too."""
    args = trainer.args
    args.__dict__["_setup_devices"] = DEVICE
    trainer.model.to(DEVICE)
    trainer.current_gradient_accumulation_steps = 1
    return send_to_device(batch, DEVICE, non_blocking=args.accelerator_config.non_blocking)
