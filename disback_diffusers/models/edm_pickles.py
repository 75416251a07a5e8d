# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Reads the files that EDM's teachers were published as, without running any code of theirs.

NVlabs' pickles hold the source code of their classes, which unpickling would execute. Here only tensors and plain
containers are rebuilt; an object of a class becomes a `Recorded`, and every other name is refused.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UsageError, one_line


PICKLE, STATE_DICT = ".pkl", (".pt", ".pth")
TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # near the start of files of torch before 1.6
CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")
DAMAGED = "it may be truncated, download it again"
UNREADABLE = "it is damaged, or no file of torch: download it again"


class Recorded:
    """An object whose class was not rebuilt.

    Attributes:
        class_name (`str`), state (`dict`): of the object.
    """

    class_name = ""

    def __init__(self, class_name: str | None = None, state: dict | None = None):
        self.class_name, self.state = class_name or self.class_name, state or {}

    def __setstate__(self, state: dict) -> None:
        """As `pickle` calls it."""
        self.state = state

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Its parameters and buffers by dotted name, as `state_dict` of the module would have them."""
        found = {}
        for kind in ("_parameters", "_buffers"):
            found |= {prefix + name: value for name, value in self.state.get(kind, {}).items() if value is not None}
        for name, module in self.state.get("_modules", {}).items():
            if module is not None:
                found |= module.tensors(f"{prefix}{name}.")
        return found


def read_pickle(file: Path) -> Any:
    """The content of a pickle of NVlabs, with `Recorded` in place of objects.

    Raises:
        UsageError: it is damaged, or names anything but tensors, containers and EDM's own classes.
    """
    _refuse_renamed(file, is_pickle=False, suffix=STATE_DICT[0])
    try:
        with open(file, "rb") as opened:
            return _Restricted(opened).load()
    except UsageError as error:
        raise UsageError(f"{file} {error}") from None
    except Exception as error:  # whatever damaged opcodes lead to
        raise UsageError(f"{file} is not a readable pickle ({one_line(error)}): {DAMAGED}.") from None


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict that torch has saved.

    Raises:
        UsageError: it is damaged, or holds anything but tensors.
    """
    _refuse_renamed(file, is_pickle=True, suffix=PICKLE)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's text says how to run the code
        raise UsageError(
            f"{file} is refused: it holds more than tensors, or is no file of torch. Nothing in it was run. Download "
            "the published file again."
        ) from None
    except Exception as error:  # of the archive inside
        raise UsageError(f"{file} cannot be read ({type(error).__name__}): {UNREADABLE}.") from None
    if not isinstance(state, dict) or not all(map(_is_named_tensor, state.items())):
        raise UsageError(f"{file} is no state dict: it holds a {type(state).__name__}, not tensors by name.")
    return dict(state)


# ---------------------------------------------------------------------------------------------------------------------


def _refuse_renamed(file, is_pickle, suffix):
    """Raise a UsageError for a file that is of the other kind by its first bytes."""
    with open(file, "rb") as opened:
        start = opened.read(32)
    if is_pickle and start.startswith(b"\x80") and TORCH_MAGIC not in start:
        raise UsageError(f"{file} is a pickle, not a state dict that torch has saved: name it {suffix}.")
    if not is_pickle and start.startswith(b"PK\x03\x04"):
        raise UsageError(f"{file} was saved by torch and is not a pickle: name it {suffix}.")


def _is_named_tensor(item):
    name, value = item
    return isinstance(name, str) and isinstance(value, torch.Tensor)


class _Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if (module, name) in FUNCTIONS:
            return _Function(FUNCTIONS[module, name])
        if module == "torch.nn.modules.container" and name in CONTAINERS:
            return type(name, (Recorded,), {"class_name": name})
        raise UsageError(f"names {module}.{name}, which is not needed for a teacher: it is refused, nothing was run.")


class _Function:
    """A function that a pickle may call, but not change."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call

    def __call__(self, *args):
        return self.call(*args)

    def __setstate__(self, state):
        raise UsageError("sets attributes of a function, which is refused.")


def _persistent(meta):
    """An object of a class whose source is in the pickle; the source is left alone."""
    return Recorded(str(meta["class_name"]), dict(meta["state"]))


def _storage(content):
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's text says how to run the code
        raise UsageError("holds something else in place of a tensor: it is refused, nothing was run.") from None


def _parameter(data, *rest):
    return data


def _latin1(text, encoding):
    if encoding != "latin1":
        raise UsageError(f"decodes with {encoding!r}, which is refused.")
    return text.encode("latin1")


def _scalar(dtype, content):
    if dtype.hasobject:
        raise UsageError("has a number that is an object, which is refused.")
    return np.frombuffer(content, dtype)[0].item()


ALLOWED = {  # none of them has attributes that could be set
    ("dnnlib.util", "EasyDict"): dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("numpy", "dtype"): np.dtype,
}
FUNCTIONS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin1,
}
