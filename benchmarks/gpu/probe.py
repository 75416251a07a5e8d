# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""In a process of its own, so that nothing it breaks breaks a part: `probe.py card|bitsandbytes|xformers`.

The card and CUDA's versions as JSON, or nothing if the package works on this card; otherwise it ends by an exception.
"""

import json
import sys

import torch


def card():
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU here")
    properties = torch.cuda.get_device_properties(0)
    size = f"{properties.total_memory / 2**30:.1f} GiB, {properties.multi_processor_count} multiprocessors"
    cuda = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    print(json.dumps({"card": f"{properties.name}, {size}", "versions": cuda}))


def bitsandbytes():
    from bitsandbytes.optim import AdamW8bit

    parameter = torch.nn.Parameter(torch.randn(64, 128, device="cuda"))  # smaller ones keep 32 bits
    before = parameter.detach().clone()
    optimizer = AdamW8bit([parameter], lr=1e-2)
    parameter.square().sum().backward()
    optimizer.step()
    assert parameter.isfinite().all() and not torch.equal(parameter, before), "AdamW8bit does not train"


def xformers():
    from xformers.ops import memory_efficient_attention

    memory_efficient_attention(*[torch.randn(1, 2, 40, device="cuda")] * 3)  # as diffusers tries it
    x = torch.randn(2, 256, 8, 40, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    memory_efficient_attention(x, x, x).sum().backward()
    assert x.grad.isfinite().all(), "its gradients are no numbers"


if __name__ == "__main__":
    {"card": card, "bitsandbytes": bitsandbytes, "xformers": xformers}[sys.argv[1]]()
