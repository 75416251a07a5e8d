# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""EDM's networks written out as formulas on named tensors, independently of diffusers' blocks, and files of them.

The names and shapes of the tensors are those of the published checkpoints.
"""

import math
import pickle
import sys
import types
from collections import OrderedDict

import torch
import torch.nn.functional as F


BOX, FIR = (1, 1), (1, 3, 3, 1)


def halved(x, taps, padding=None):
    kernel = torch.outer(torch.tensor(taps), torch.tensor(taps)).float() / sum(taps) ** 2
    padding = (len(taps) - 1) // 2 if padding is None else padding
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), stride=2, padding=padding, groups=x.shape[1])


def doubled(x, taps):
    kernel = 4 * torch.outer(torch.tensor(taps), torch.tensor(taps)).float() / sum(taps) ** 2
    kernel = kernel.expand(x.shape[1], 1, -1, -1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])


def resampling(taps, up, down):
    if up:
        return lambda x: doubled(x, taps)
    return (lambda x: halved(x, taps)) if down else lambda x: x


class Network:
    """Draws its tensors at random when they are first used, and then keeps them.

    Args:
        levels (`list[tuple[int, int]]`): size and channels of each, from the largest image.
        blocks (`int`): residual blocks of a level on the way down.
        attention (`set[int]`): sizes with attention.
        classes (`int`), taps (`tuple`): number of labels, resampling filter.
    """

    def __init__(self, levels, blocks=1, attention=(), classes=0, taps=BOX, seed=0):
        self.levels, self.blocks, self.attention, self.classes, self.taps = levels, blocks, attention, classes, taps
        self.tensors, self.random = {}, torch.Generator().manual_seed(seed)

    def tensor(self, name, *shape, scale=None):
        if name not in self.tensors:
            scale = scale or (0.5 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3)
            self.tensors[name] = scale * torch.randn(*shape, generator=self.random)
        return self.tensors[name]

    def conv(self, name, x, channels, size=3, padding=None):
        weight = self.tensor(f"{name}.weight", channels, x.shape[1], size, size)
        bias = self.tensor(f"{name}.bias", channels)
        return F.conv2d(x, weight, bias, padding=size // 2 if padding is None else padding)

    def linear(self, name, x, channels, bias=True):
        weight = self.tensor(f"{name}.weight", channels, x.shape[1])
        return F.linear(x, weight, self.tensor(f"{name}.bias", channels) if bias else None)

    def norm(self, name, x, eps):
        groups = min(32, x.shape[1] // 4)
        weight, bias = (self.tensor(f"{name}.{kind}", x.shape[1]) for kind in ("weight", "bias"))
        return F.group_norm(x, groups, weight, bias, eps)

    def attend(self, name, x, heads, eps):
        """q, k and v of a channel are side by side."""
        n, c, h, w = x.shape
        qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x, eps), 3 * c, size=1)
        q, k, v = qkv.reshape(n * heads, c // heads, 3, h * w).unbind(2)
        weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(c // heads)).softmax(2)
        return x + self.conv(f"{name}.proj", torch.einsum("nqk,nck->ncq", weights, v).reshape(x.shape), c, size=1)


class Song(Network):
    """DDPM++ and NCSN++."""

    def __init__(self, *args, base=32, fourier=False, branch="standard", augment=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.base, self.fourier, self.branch, self.augment = base, fourier, branch, augment

    def block(self, name, x, embedding, channels, up=False, down=False, attention=False):
        resample = resampling(self.taps, up, down)
        h = self.conv(f"{name}.conv0", resample(F.silu(self.norm(f"{name}.norm0", x, 1e-6))), channels)
        h = h + self.linear(f"{name}.affine", embedding, channels)[:, :, None, None]
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h, 1e-6)), channels)
        skip = resample(x)
        if up or down or channels != x.shape[1]:
            skip = self.conv(f"{name}.skip", skip, channels, size=1)
        x = (h + skip) / math.sqrt(2)
        return self.attend(name, x, 1, 1e-6) / math.sqrt(2) if attention else x

    def __call__(self, x, c_noise, labels=None):
        """labels: one-hot rows, or zeros."""
        embedding = self.embed(c_noise, labels)
        skips = self.encode(x, embedding)
        return self.decode(skips, embedding)

    def embed(self, c_noise, labels):
        width = self.base * (2 if self.fourier else 1)
        if self.fourier:
            angles = 2 * math.pi * c_noise[:, None] * self.tensor("map_noise.freqs", width // 2, scale=16)
        else:
            angles = c_noise[:, None] * (1 / 10000) ** (torch.arange(width // 2) / (width // 2 - 1))
        embedding = torch.cat([angles.sin(), angles.cos()], 1)
        if self.classes:
            embedding = embedding + self.linear("map_label", labels * math.sqrt(self.classes), width)
        if self.augment:
            self.tensor("map_augment.weight", width, self.augment)
        for name in ("map_layer0", "map_layer1"):
            embedding = F.silu(self.linear(name, embedding, 4 * self.base))
        return embedding

    def encode(self, x, embedding):
        image, skips = x, []
        for number, (size, channels) in enumerate(self.levels):
            name = f"enc.{size}x{size}_"
            if number == 0:
                x = self.conv(f"{name}conv", x, self.base)
            else:
                x = self.block(f"{name}down", x, embedding, x.shape[1], down=True)
                if self.branch == "skip":
                    image = halved(image, self.taps)
                    x = x + self.conv(f"{name}aux_skip", image, x.shape[1], size=1)
                if self.branch == "residual":
                    branch = self.conv(f"{name}aux_residual", image, x.shape[1], padding=1 + (len(self.taps) - 1) // 2)
                    x = image = (x + halved(branch, self.taps, padding=0)) / math.sqrt(2)
            skips.append(x)
            for i in range(self.blocks):
                x = self.block(f"{name}block{i}", x, embedding, channels, attention=size in self.attention)
                skips.append(x)
        return skips

    def decode(self, skips, embedding):
        x, image = skips[-1], None
        for number, (size, channels) in enumerate(reversed(self.levels)):
            name = f"dec.{size}x{size}_"
            if number == 0:
                x = self.block(f"{name}in0", x, embedding, channels, attention=True)
                x = self.block(f"{name}in1", x, embedding, channels)
            else:
                x = self.block(f"{name}up", x, embedding, x.shape[1], up=True)
            for i in range(self.blocks + 1):
                joined = torch.cat([x, skips.pop()], 1)
                attention = i == self.blocks and size in self.attention
                x = self.block(f"{name}block{i}", joined, embedding, channels, attention=attention)
            if self.branch == "skip" or number == len(self.levels) - 1:
                shown = self.conv(f"{name}aux_conv", F.silu(self.norm(f"{name}aux_norm", x, 1e-6)), 3)
                image = shown if image is None else shown + doubled(image, self.taps)
        return image


class Adm(Network):
    """ADM, as NVlabs' `DhariwalUNet` has it; without `scale_shift` as OpenAI's LSUN teachers have it."""

    def __init__(self, *args, scale_shift=True, embedding=4, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale_shift, self.embedding = scale_shift, embedding

    def block(self, name, x, embedding, channels, up=False, down=False, attention=False):
        resample = resampling(BOX, up, down)
        h = self.conv(f"{name}.conv0", resample(F.silu(self.norm(f"{name}.norm0", x, 1e-5))), channels)
        given = self.linear(f"{name}.affine", embedding, channels * (1 + self.scale_shift))[:, :, None, None]
        if self.scale_shift:
            scale, shift = given.chunk(2, 1)
            h = F.silu(self.norm(f"{name}.norm1", h, 1e-5) * (1 + scale) + shift)
        else:
            h = F.silu(self.norm(f"{name}.norm1", h + given, 1e-5))
        h, skip = self.conv(f"{name}.conv1", h, channels), resample(x)
        if channels != x.shape[1]:
            skip = self.conv(f"{name}.skip", skip, channels, size=1)
        return self.attend(name, h + skip, channels // 64, 1e-5) if attention else h + skip

    def __call__(self, x, c_noise, labels=None):
        """labels: one-hot rows, or zeros."""
        base, width = self.levels[0][1], self.embedding * self.levels[0][1]
        angles = c_noise[:, None] * (1 / 10000) ** (torch.arange(base // 2) / (base // 2))
        embedding = torch.cat([angles.cos(), angles.sin()], 1)
        embedding = self.linear("map_layer1", F.silu(self.linear("map_layer0", embedding, width)), width)
        if self.classes:
            embedding = embedding + self.linear("map_label", labels, width, bias=False)
        embedding, skips = F.silu(embedding), []
        for number, (size, channels) in enumerate(self.levels):
            name = f"enc.{size}x{size}_"
            if number == 0:
                x = self.conv(f"{name}conv", x, channels)
            else:
                x = self.block(f"{name}down", x, embedding, x.shape[1], down=True)
            skips.append(x)
            for i in range(self.blocks):
                x = self.block(f"{name}block{i}", x, embedding, channels, attention=size in self.attention)
                skips.append(x)
        for number, (size, channels) in enumerate(reversed(self.levels)):
            name = f"dec.{size}x{size}_"
            if number == 0:
                x = self.block(f"{name}in0", x, embedding, channels, attention=True)
                x = self.block(f"{name}in1", x, embedding, channels)
            else:
                x = self.block(f"{name}up", x, embedding, x.shape[1], up=True)
            for i in range(self.blocks + 1):
                joined = torch.cat([x, skips.pop()], 1)
                x = self.block(f"{name}block{i}", joined, embedding, channels, attention=size in self.attention)
        return self.conv("out_conv", F.silu(self.norm("out_norm", x, 1e-5)), 3)


# ---------------------------------------------------------------------------------------------------------------------
# Files


class Persistent:
    """An object as NVlabs pickles it: with the source code of its class, which would be run."""

    def __init__(self, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('source was run')",
                     "class_name": class_name, "state": state}  # fmt: skip

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def _as_modules(tensors, class_name, init_kwargs=None):
    """The `__dict__`s of nested modules with these tensors by dotted name."""
    own = {name: torch.nn.Parameter(value) for name, value in tensors.items() if "." not in name}
    inner = {}
    for name, value in tensors.items():
        if "." in name:
            first, rest = name.split(".", 1)
            inner.setdefault(first, {})[rest] = value
    modules = OrderedDict((name, _as_modules(part, "Conv2d")) for name, part in inner.items())
    state = {"training": False, "_parameters": OrderedDict(own), "_buffers": OrderedDict(), "_modules": modules,
             "_non_persistent_buffers_set": set(), "_init_args": (), "_init_kwargs": init_kwargs or {}}  # fmt: skip
    return Persistent(class_name, state)


def save_pickle(file, network, options, class_name="EDMPrecond", protocol=4, sigma_data=0.5):
    """A snapshot of NVlabs' EDM."""
    model = _as_modules(network.tensors, options.pop("model_type"), options)
    state = {"sigma_data": sigma_data, "_parameters": OrderedDict(), "_buffers": OrderedDict(),
             "_modules": OrderedDict(model=model), "_init_args": (), "_init_kwargs": {}}  # fmt: skip
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("unpickled by the class's own code")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__, "_reconstruct_persistent_obj")  # fmt: skip
    module._reconstruct_persistent_obj = package.persistence = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        file.write_bytes(pickle.dumps({"ema": Persistent(class_name, state), "loss_fn": None}, protocol=protocol))
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
    return file


PARTS = {"norm0": "in_layers.0", "conv0": "in_layers.2", "affine": "emb_layers.1", "norm1": "out_layers.0",
         "conv1": "out_layers.3", "skip": "skip_connection", "norm2": "norm", "qkv": "qkv",
         "proj": "proj_out"}  # fmt: skip
ENDS = {"map_layer0": "time_embed.0", "map_layer1": "time_embed.2", "out_norm": "out.0", "out_conv": "out.2"}


def openai_state(network):
    """The tensors of an `Adm` under OpenAI's names."""
    blocks, sizes, places = network.blocks, [size for size, _ in network.levels], {}
    for level, size in enumerate(sizes):
        start = level * (blocks + 1)
        places[f"enc.{size}x{size}_{'down' if level else 'conv'}"] = f"input_blocks.{start}.", "0"
        places |= {f"enc.{size}x{size}_block{i}": (f"input_blocks.{start + 1 + i}.", "0") for i in range(blocks)}
    for number, size in enumerate(reversed(sizes)):
        start = number * (blocks + 1)
        places |= {f"dec.{size}x{size}_block{i}": (f"output_blocks.{start + i}.", "0") for i in range(blocks + 1)}
        if number:
            last = 2 if sizes[-number] in network.attention else 1
            places[f"dec.{size}x{size}_up"] = f"output_blocks.{start - 1}.", str(last)
    smallest = f"dec.{sizes[-1]}x{sizes[-1]}_"
    places |= {f"{smallest}in0": ("middle_block.", "0"), f"{smallest}in1": ("middle_block.", "2")}
    state = {}
    for name, value in network.tensors.items():
        *block, part, kind = name.split(".")
        block = ".".join(block)
        if part == "map_label":
            state["label_emb.weight"] = value.T
        elif part in ENDS:
            state[f"{ENDS[part]}.{kind}"] = value
        elif f"{block}.{part}" in places:  # the first convolution
            state[f"{places[f'{block}.{part}'][0]}0.{kind}"] = value
        else:
            where, index = places[block]
            index = "1" if part in ("norm2", "qkv", "proj") else index
            if part == "qkv":  # all of q before all of k
                value = torch.cat(value.unflatten(0, (-1, 3)).unbind(1))
            state[f"{where}{index}.{PARTS[part]}.{kind}"] = value
    return state
