# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students of a tiny teacher as a training run leaves them: each of the three kinds, with the same random weights."""

import copy
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from disback_diffusers.artifact.layout import write_config as write_student_config
from disback_diffusers.artifact.save import save_lora, save_network
from disback_diffusers.files import LORA_NAME
from disback_diffusers.models.lora_targets import ALL_TARGETS
from disback_diffusers.models.roles import Roles
from disback_diffusers.pipelines import DisBackPipeline


TIMESTEP = 399
RANK, ALPHA = 4, 8  # not equal: the scale must be kept
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # as kohya adapts


def lora_student(base):
    """The `Roles` of a teacher folder's UNet, with a random "student"."""
    roles = Roles(UNet2DConditionModel.from_pretrained(base, subfolder="unet"))
    roles.add("student", RANK, ALPHA, ALL_TARGETS)
    roles.randomize("student", seed=1)
    roles.use("student")
    return roles


def write_config(folder, kind, base_model, base_revision=None):
    base_model = base_model and str(base_model)
    config = {
        "base_model": base_model,
        "base_revision": base_revision,
        "student": kind,
        "timesteps": [TIMESTEP],
    }
    lora = {"lora_rank": RANK, "lora_alpha": ALPHA} if kind == "lora" else {}
    write_student_config(folder, {**config, **lora, "method": {"prompt_dataset": "/home/somebody/prompts.txt"}})


def save_students(base, folder):
    """{"lora": folder, "unet": folder, "full": folder} and the `Roles` they were made from."""
    roles, folders = lora_student(base), {kind: Path(folder) / kind for kind in ("lora", "unet", "full")}
    save_lora(folders["lora"], roles.state_dict("student"), roles.lora_config("student"))
    write_config(folders["lora"], "lora", base)
    fused = copy.deepcopy(roles.network)
    fused.fuse_lora()
    fused.unload_lora()
    save_network(folders["unet"], fused)
    write_config(folders["unet"], "full", base)
    DisBackPipeline.from_pretrained(folders["lora"]).save_pretrained(folders["full"])
    return folders, roles


def noise(n=1, seed=0):
    return torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def save_peft(folder, roles):
    """The student as a LoRA file with PEFT's keys. Returns the file."""
    save_lora(folder, roles.state_dict("student"), roles.lora_config("student"))
    return Path(folder) / LORA_NAME


def save_kohya(folder, roles):
    """The same in float16 with kohya's keys and an alpha for every layer, as latent-consistency/lcm-lora-sdv1-5."""
    tensors = {}
    for key, value in roles.state_dict("student").items():
        layer, factor = key.removesuffix(".weight").split(".lora_")
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors[f"{name}.lora_{'down' if factor == 'A' else 'up'}.weight"] = value.half()
        tensors[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    file = Path(folder) / LORA_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {"format": "pt"})
    return file


def add_text_encoders(file, base, wider=0, layers=TEXT_LAYERS):
    """Add updates of rank 2 of the text encoders of a teacher's folder to kohya's file. Returns the file."""
    tensors, random = load_file(file), torch.Generator().manual_seed(5)
    pipe = DiffusionPipeline.from_pretrained(base)
    encoders = {name: part for name, part in pipe.components.items() if name.startswith("text_encoder")}
    prefixes = ["lora_te"] if len(encoders) == 1 else ["lora_te1", "lora_te2"]
    for prefix, encoder in zip(prefixes, encoders.values(), strict=True):
        for name, layer in encoder.named_modules():
            if name.endswith(layers):
                key = f"{prefix}_text_model_{name.removeprefix('text_model.').replace('.', '_')}"
                tensors[f"{key}.lora_down.weight"] = 0.3 * torch.randn(2, layer.in_features + wider, generator=random)
                tensors[f"{key}.lora_up.weight"] = 0.3 * torch.randn(layer.out_features, 2, generator=random)
                tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file, {"format": "pt"})
    return file
