# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Stable Diffusion and SDXL pipelines small enough to build in a moment: real classes, random weights, no download.

    pipe = build_sd(prediction_type="v_prediction")
    folder = save_sd(tmp_path / "teacher")        # what --pretrained_teacher_model takes

Images are 32x32 (latents 4x16x16), prompts of any script are tokenized without an unknown token, and the UNets have a
layer for each of the 14 LoRA suffixes.
"""

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


TEXT_SIZE = 32
LATENT_SHAPE = (4, 16, 16)
WORDS = ("a", "photo", "of", "the", "red", "blue", "cat", "dog", "circle", "square")
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def build_tokenizer(pad_token="<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer of every byte and a few words; goes through files, which all versions of transformers read."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = [*symbols, *(symbol + "</w>" for symbol in symbols)], []
    for word in WORDS:
        head, *rest = [*word[:-1], word[-1] + "</w>"]
        for part in rest:
            merges.append(f"{head} {part}")
            head += part
            tokens.append(head)
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # last, as in CLIP: pooling takes the largest id
    merges = list(dict.fromkeys(merges))
    with tempfile.TemporaryDirectory() as folder:
        vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
        Path(folder, "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, pad_token=pad_token, model_max_length=77)


def build_text_encoder(tokenizer, cls=CLIPTextModel, hidden_act="quick_gelu"):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_SIZE,
        intermediate_size=2 * TEXT_SIZE,
        projection_dim=TEXT_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act=hidden_act,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # the default, 2, would select pooling by a rule of old checkpoints
        pad_token_id=tokenizer.pad_token_id,
    )
    return cls(config).eval()


def build_vae(scaling_factor):
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=scaling_factor,
    ).eval()


def build_sd_unet(seed=0) -> UNet2DConditionModel:
    """Called with sample (n, 4, 16, 16), timestep, encoder_hidden_states (n, 77, 32)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=TEXT_SIZE,
            norm_num_groups=4,
        ).eval()


def build_small_unet(seed=1) -> UNet2DConditionModel:
    """In the place of `build_sd_unet`: half as wide, and made for images of another size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = {**build_sd_unet().config, "block_out_channels": (4, 8), "sample_size": 8}
        return UNet2DConditionModel.from_config(config)


def build_sdxl_unet(seed=0) -> UNet2DConditionModel:
    """encoder_hidden_states here are (n, 77, 64); `added_cond_kwargs` are text_embeds (n, 32) and time_ids (n, 6)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            cross_attention_dim=2 * TEXT_SIZE,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_SIZE,
            norm_num_groups=4,
        ).eval()


def build_sd(seed=0, prediction_type="epsilon", **scheduler_overrides) -> StableDiffusionPipeline:
    """A tiny Stable Diffusion; `scheduler_overrides` go to its DDIMScheduler. The global RNG is left alone."""
    settings = {**SCHEDULER, "clip_sample": False, "set_alpha_to_one": False, **scheduler_overrides}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        return StableDiffusionPipeline(
            vae=build_vae(scaling_factor=0.18215),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=build_sd_unet(seed),
            scheduler=DDIMScheduler(prediction_type=prediction_type, **settings),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def build_sdxl(seed=0, prediction_type="epsilon", **scheduler_overrides) -> StableDiffusionXLPipeline:
    """A tiny SDXL; `scheduler_overrides` go to its EulerDiscreteScheduler. The global RNG is left alone."""
    settings = {**SCHEDULER, "timestep_spacing": "leading", **scheduler_overrides}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = build_tokenizer(), build_tokenizer(pad_token="!")  # as SDXL's second one
        return StableDiffusionXLPipeline(
            vae=build_vae(scaling_factor=0.13025),
            text_encoder=build_text_encoder(tokenizer),
            text_encoder_2=build_text_encoder(tokenizer_2, CLIPTextModelWithProjection, hidden_act="gelu"),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=build_sdxl_unet(seed),
            scheduler=EulerDiscreteScheduler(prediction_type=prediction_type, **settings),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )


def save_sd(folder, **kwargs) -> Path:
    """Save `build_sd(**kwargs)` to a folder and return it."""
    build_sd(**kwargs).save_pretrained(folder)
    return Path(folder)


def save_sdxl(folder, **kwargs) -> Path:
    """Save `build_sdxl(**kwargs)` to a folder and return it."""
    build_sdxl(**kwargs).save_pretrained(folder)
    return Path(folder)
