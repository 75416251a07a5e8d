# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""SD 1.5 and SDXL base 1.0 of random weights, built from their public configs, and tiny ones for a rehearsal.

Only config files are written. Weights are made on the device itself, so that no gigabytes are saved and read back.
"""

import json

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from disback_diffusers.models.embedded import EMBEDDED, resolve
from disback_diffusers.models.families import StableDiffusion, StableDiffusionXL


TOKENS = 77  # of a prompt
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
OPENCLIP_BIGG = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SD15 = {
    "unet": {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "vae": {**VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "text": [CLIP_L],
}
SDXL = {
    "unet": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "text": [CLIP_L, OPENCLIP_BIGG],
}
ENCODERS = {"": CLIPTextModel, "_2": CLIPTextModelWithProjection}  # by the end of their names
FULL_SIZE = {"sd15": SD15, "sdxl": SDXL}

# What makes them tiny: images of 32x32, latents of 16x16.
TINY_UNET = {"sample_size": 16, "layers_per_block": 1, "norm_num_groups": 4}
TINY_VAE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
TINY = {
    "sd15": {
        "unet": {
            **TINY_UNET,
            "block_out_channels": [8, 16],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "attention_head_dim": 2,
            "cross_attention_dim": 32,
        }
    },
    "sdxl": {
        "unet": {
            **TINY_UNET,
            "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "attention_head_dim": [2, 4],
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        }
    },
}


def config_of(family, tiny=False):
    """Settings of "sd15" or "sdxl": `unet` and `vae`, and `text`, those of each text encoder."""
    full = FULL_SIZE[family]
    if not tiny:
        return full
    return {
        "unet": {**full["unet"], **TINY[family]["unet"]},
        "vae": {**full["vae"], **TINY_VAE},
        "text": [{**config, **TINY_TEXT} for config in full["text"]],
    }


def scheduler_of(family):
    """The scheduler that the pipeline comes with."""
    if family == "sd15":
        return PNDMScheduler(**NOISE, set_alpha_to_one=False, skip_prk_steps=True)
    return EulerDiscreteScheduler(**NOISE, timestep_spacing="leading")


def tokenizer():
    """That of the embedded teacher. Its words are others than CLIP's, but the work is the same: 77 tokens."""
    return CLIPTokenizer.from_pretrained(f"{resolve(EMBEDDED)}/tokenizer", model_max_length=TOKENS)


def write_configs(folder, family, tiny=False):
    """A pipeline folder without weights, as far as a teacher reads one before it loads weights."""
    config = config_of(family, tiny)
    pipeline = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}[family]
    index = {"_class_name": pipeline.__name__}
    for (suffix, encoder), values in zip(ENCODERS.items(), config["text"]):
        index[f"text_encoder{suffix}"] = ["transformers", encoder.__name__]
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
        CLIPTextConfig(**values).save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer().save_pretrained(folder / f"tokenizer{suffix}")
    files = {
        "model_index.json": index,
        "unet/config.json": {"_class_name": "UNet2DConditionModel", **config["unet"]},
        "vae/config.json": {"_class_name": "AutoencoderKL", **config["vae"]},
    }
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    scheduler_of(family).save_pretrained(folder / "scheduler")
    return folder


# ---------------------------------------------------------------------------------------------------------------------


def random_model(make, device, dtype=torch.float32, seed=0):
    """The model that `make()` returns, made on the device with PyTorch's own random weights, frozen, in eval mode."""
    torch.manual_seed(seed)
    with torch.device(device):
        return make().to(dtype).eval().requires_grad_(False)


class NoFiles:
    """In the place of a `ModelSource.check_weights`: there are none."""

    def __call__(self, parts):
        pass


class RandomWeights:
    """Mixed into a family: the same checks and configs, but random weights and prompt embeddings.

    `device` is where they are made.
    """

    device = "cpu"

    def __init__(self, source):
        source.check_weights = NoFiles()
        super().__init__(source)

    def load_network(self, dtype=torch.float32):
        return random_model(self.build_network, self.device, dtype)

    def load_encoder(self, device, dtype=torch.float32):
        example = self.example_conditions()

        def encode(prompts):
            n = len(prompts)
            return example.map(lambda value: torch.randn(n, *value.shape[1:]).to(device, dtype))

        return encode

    def prepare_decoder(self):
        """Nothing is decoded here."""


class RandomSD(RandomWeights, StableDiffusion):
    """SD 1.5 of random weights."""


class RandomSDXL(RandomWeights, StableDiffusionXL):
    """SDXL of random weights."""


FAMILIES = {"sd15": RandomSD, "sdxl": RandomSDXL}


def components(family, device, dtype, tiny=False):
    """Everything a pipeline of the family consists of, by name, with random weights."""
    config = config_of(family, tiny)
    parts = {
        "unet": random_model(lambda: UNet2DConditionModel(**config["unet"]), device, dtype),
        "vae": random_model(lambda: AutoencoderKL(**config["vae"]), device, dtype),
        "scheduler": scheduler_of(family),
    }
    for (suffix, encoder), values in zip(ENCODERS.items(), config["text"]):
        parts[f"text_encoder{suffix}"] = random_model(
            lambda c=encoder, v=values: c(CLIPTextConfig(**v)), device, dtype
        )
        parts[f"tokenizer{suffix}"] = tokenizer()
    if family == "sd15":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return parts
