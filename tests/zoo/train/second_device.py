"""A device that every machine has: its tensors compute on the CPU, and refuse to meet those of the CPU.

PyTorch knows the device as `meta`. What an accelerator allows is allowed here: copies, and scalars of the CPU.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class _There(Tensor):
    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Self:
        there: Self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        there.here = here
        return there

    def __init__(self, here: Tensor) -> None: ...

    def tolist(self) -> Any:  # which PyTorch refuses to subclasses
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While entered, `torch.device("meta")` is that device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(tensor.here): tensor for tensor in given if isinstance(tensor, _There)}
    here = [tensor for tensor in given if not isinstance(tensor, _There)]
    if there and func not in _COPIES and any(tensor.ndim for tensor in here):
        raise RuntimeError(f"{func} got tensors of two devices")
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device).type == DEVICE
    if func is torch.ops.aten.copy_.default:
        goes_there = isinstance(args[0], _There)
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map(lambda x: x.here if isinstance(x, _There) else x, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not goes_there:
            return value
        return there.get(id(value)) if id(value) in there else _There(value)

    return tree_map(placed, result)
