"""Tensors of a pretended accelerator: they compute on the CPU, and refuse to meet the CPU's own.

What a GPU would refuse is so refused without one: operations on tensors of both places, numpy's view of a tensor
that is not on the CPU. Results are those of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from interp.models import Model

PLACE = torch.device("xla")
"""A name that PyTorch knows and asks no driver about."""
_aten = torch.ops.aten
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_to, _tensor = torch.Tensor.to, torch.tensor


class Elsewhere(torch.Tensor):
    """A tensor of the accelerator; `here` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        found = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, device="meta",
        )  # fmt: skip
        found.here = here
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return PLACE

    def __repr__(self, **_) -> str:
        return f"Elsewhere({self.here})"

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def item(self):
        return self.here.item()

    def tolist(self):
        return self.here.tolist()

    def __bool__(self) -> bool:
        return bool(self.here)

    def __int__(self) -> int:
        return int(self.here)

    def __float__(self) -> float:
        return float(self.here)

    def __index__(self) -> int:
        return self.here.__index__()

    def numpy(self, *_, **__):
        raise TypeError("can't convert an accelerator's tensor to numpy: copy it to the CPU first")

    __array__ = numpy


def _tensors(tree) -> list[torch.Tensor]:
    return [t for t in tree_flatten(tree)[0] if isinstance(t, torch.Tensor)]


def _here(x):
    return x.here if isinstance(x, Elsewhere) else x


def _there(x):
    return Elsewhere(x) if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere) else x


def _run(func, args, kwargs):
    tensors = _tensors((args, kwargs))
    moved = any(isinstance(t, Elsewhere) for t in tensors)
    if moved and func not in _COPIES:
        free = func in _INDEXING and isinstance(args[0], Elsewhere)  # indices may be anywhere
        meet = _tensors(((args[0], *args[2:]) if free else args, kwargs))
        if any(not isinstance(t, Elsewhere) and t.dim() for t in meet):
            raise RuntimeError(f"{func} was given tensors of two devices: {tensors}")
    asked = kwargs.get("device")
    if asked is not None:
        moved = torch.device(asked).type in (PLACE.type, "meta")
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    name = func.__name__.split(".")[0]
    if name.endswith("_") and not name.startswith("_"):
        return args[0]  # changed in place
    return tree_map(_there, found) if moved else found


class _Everywhere(TorchDispatchMode):
    """Sees tensors that are made on the accelerator from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return Elsewhere(x.detach())

    @staticmethod
    def backward(ctx, grad):  # type: ignore
        return _here(grad)


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.here.detach()

    @staticmethod
    def backward(ctx, grad):  # type: ignore
        return Elsewhere(grad)


def _moved(self: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """`Tensor.to` without PyTorch's questions to a driver."""
    given = [*args, *kwargs.values()]
    like = next((x for x in given if isinstance(x, torch.Tensor)), None)
    types = [x for x in given if isinstance(x, torch.dtype)] + (
        [like.dtype] if like is not None else []
    )
    places = [torch.device(x) for x in given if isinstance(x, str | torch.device)]
    places += [] if like is None else [like.device]
    is_there = isinstance(self.data, Elsewhere)
    if not is_there and PLACE.type not in {place.type for place in places}:
        return _to(self, *args, **kwargs)
    found = _to(self, types[0]) if types and types[0] != self.dtype else self
    if places and is_there != (places[0].type == PLACE.type):
        return (_Back if is_there else _Out).apply(found)  # type: ignore
    return found


def _made(*args, device=None, **kwargs) -> torch.Tensor:
    found = _tensor(*args, **kwargs)
    return (
        Elsewhere(found)
        if device is not None and torch.device(device).type == PLACE.type
        else found
    )


@contextmanager
def elsewhere() -> Iterator[None]:
    """Let PyTorch know the accelerator while the block is open."""
    with (
        patch.object(torch.Tensor, "to", _moved),
        patch.object(torch.Tensor, "cpu", lambda self, *_, **__: _moved(self, "cpu")),
        patch.object(torch, "tensor", _made),
        _Everywhere(),
    ):
        yield


def move(model: Model) -> Model:
    """The model, whose weights are on the accelerator from now on."""
    for whole in (model.bridge, model.bridge.original_model, model.plain.twin):
        for module in whole.modules():
            for held in (module._parameters, module._buffers):
                for name, x in held.items():
                    if x is not None and not isinstance(x.data, Elsewhere):
                        there = Elsewhere(x.data)
                        held[name] = (
                            torch.nn.Parameter(there, requires_grad=x.requires_grad)
                            if isinstance(x, torch.nn.Parameter)
                            else there
                        )
    return model
