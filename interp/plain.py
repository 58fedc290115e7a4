"""The same weights as Hugging Face's own modules, for passes in which no hook looks inside a block.

A `TransformerBridge` takes a model's modules over: it computes attention step by step, so that each step has
a hook point, in time and memory that a fused kernel (`scaled_dot_product_attention`) does not need. Passes
whose hooks see the residual stream between blocks alone get the same values without it.
"""

import copy
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import BlockBridge

_LIBRARIES = ("transformers.", "transformer_lens.")


def twin_of(weights: Any) -> Any:
    """A model with modules and a configuration of its own over the same parameters and buffers.

    To be made before a bridge takes the modules over; weights changed in place later are changed in both.
    """
    shared = {id(tensor): tensor for tensor in (*weights.parameters(), *weights.buffers())}
    return copy.deepcopy(weights, shared)


class Plain:
    """A twin of a bridge's model whose blocks send what they read and write through the bridge's hook points.

    So hooks on `resid_pre` and `resid_post` fire, and edit, in `twin` as they do in the bridge.
    """

    def __init__(self, twin: Any, bridge: TransformerBridge) -> None:
        self.twin = twin
        blocks = list(bridge.blocks)
        self._same = all(type(block).forward is BlockBridge.forward for block in blocks)
        for block in blocks:
            layer = twin.get_submodule(block.name)
            layer.register_forward_pre_hook(_input_through(block.hook_in), with_kwargs=True)
            layer.register_forward_hook(_output_through(block.hook_out))
        # What generation keeps of a prompt is a slice, which would be multiplied row by row.
        twin.get_output_embeddings().register_forward_pre_hook(_contiguous)
        edges = {id(point) for block in blocks for point in (block.hook_in, block.hook_out)}
        modules = {id(m): m for m in (*bridge.modules(), *bridge.original_model.modules())}
        self._others = [module for key, module in modules.items() if key not in edges]
        self._bridge = bridge

    def suffices(self) -> bool:
        """Whether nothing is hooked now but what blocks read and write."""
        return (
            self._same
            and not self._bridge.compatibility_mode
            and not any(map(_is_hooked, self._others))
        )


def _is_hooked(module: nn.Module) -> bool:
    kinds = module._forward_pre_hooks, module._forward_hooks, module._backward_hooks
    if not any(kinds) or isinstance(module, HookPoint):
        return any(kinds)
    # Both libraries leave hooks of their own on modules, which do nothing unless they are asked to.
    hooks = [hook for kind in kinds for hook in kind.values()]
    return any(not hook.__module__.startswith(_LIBRARIES) for hook in hooks)


def _input_through(point: nn.Module):
    def hook(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (point(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": point(kwargs["hidden_states"])}

    return hook


def _contiguous(head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].contiguous(),)


def _output_through(point: nn.Module):
    def hook(layer: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
        return (point(out[0]), *out[1:]) if isinstance(out, tuple) else point(out)

    return hook
