# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""How much a forward of a network keeps for its backward, counted by autograd itself on the meta device."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch.autograd.graph import saved_tensors_hooks


CHECKPOINTED = (ResnetBlock2D, BasicTransformerBlock)  # what diffusers recomputes as a whole


def saved_bytes(
    network: torch.nn.Module, forward: Callable[[], object], gradient_checkpointing: bool = False
) -> tuple[int, int]:
    """Bytes that one forward keeps until its backward.

    Args:
        network (`torch.nn.Module`): on the meta device, in the precision of its computations.
        forward: runs it once, on inputs on the meta device.
        gradient_checkpointing (`bool`): then blocks keep their inputs alone, and the largest one all, recomputed.

    Returns:
        kept from forward to backward; further ones of the block that is being recomputed.
    """
    counter = _Counter(network)
    with counter.watching(network), saved_tensors_hooks(counter.keep, lambda tensor: tensor):
        forward()
    blocks = counter.by_block
    outside = blocks.pop(None, 0)
    if not gradient_checkpointing:
        return outside + sum(blocks.values()), 0
    return outside + sum(counter.inputs.values()), max(blocks.values(), default=0)


class _Counter:
    """Adds up saved tensors, each storage once, by the block in whose forward they were saved."""

    def __init__(self, network):
        self.parameters = {id(parameter) for parameter in network.parameters()}
        self.by_block, self.inputs = {}, {}
        self._block, self._seen, self._alive = None, set(), []

    def keep(self, tensor):
        base = tensor if tensor._base is None else tensor._base
        storage = tensor.untyped_storage()._cdata
        if id(base) not in self.parameters and storage not in self._seen:
            self._seen.add(storage)
            self._alive.append(tensor)  # so that no other storage gets this one's address
            self.by_block[self._block] = self.by_block.get(self._block, 0) + tensor.numel() * tensor.element_size()
        return tensor

    @contextmanager
    def watching(self, network):
        handles = []
        for name, module in network.named_modules():
            if isinstance(module, CHECKPOINTED):
                handles += [
                    module.register_forward_pre_hook(lambda module, args, name=name: self._enter(name, args)),
                    module.register_forward_hook(lambda *_: self._leave()),
                ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name, args):
        self._block = name
        self.inputs[name] = sum(x.numel() * x.element_size() for x in args[:1])

    def _leave(self):
        self._block = None
