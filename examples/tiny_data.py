# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the tiny models are made of and trained on: the emoji and their names, the tokenizer, latents."""

import json
from pathlib import Path

import torch
from datasets import ClassLabel, Image, load_dataset
from tokenizers import models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTokenizer

from disback_diffusers.errors import UsageError, one_line


HERE = Path(__file__).parent
EMOJI = HERE / "data" / "noto_emoji_32.parquet"  # columns image, label (the Unicode group), text
MAX_TOKENS = 32
VOCABULARY_SIZE = 1536
TEXT_SIZE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}


def load_pairs(path):
    """All images as one tensor (n, 3, 32, 32) in [-1, 1], and their names."""
    data = load_dataset("parquet", data_files=str(path), split="train").with_format("torch")
    return torch.stack(list(data["image"])).float() / 127.5 - 1, list(data["text"])


def load_labelled(path):
    """All images as one tensor (n, 3, H, W) in [-1, 1], their labels (n,), and the names of the classes.

    Raises:
        UsageError: no such file, one of another kind, other columns, or images not square or of several sizes.
    """
    if not Path(path).is_file():
        raise UsageError(f"--train_data {path}: no such file.")
    try:
        data = load_dataset("parquet", data_files=str(path), split="train")
    except Exception as error:  # of datasets and pyarrow
        raise UsageError(f"--train_data {path} is no readable parquet file ({one_line(error)}).") from None
    if not isinstance(data.features.get("image"), Image) or not isinstance(data.features.get("label"), ClassLabel):
        raise UsageError(f"--train_data {path} must have the columns image and label (a datasets.ClassLabel).")
    images = [image.convert("RGB") for image in data["image"]]
    if len({(image.width, image.height) for image in images}) != 1 or images[0].width != images[0].height:
        raise UsageError(f"--train_data {path} must have square images of one size.")
    pixels = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])
    size = images[0].width
    pixels = pixels.view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()
    return pixels.float() / 127.5 - 1, torch.tensor(data["label"]), data.features["label"].names


def build_tokenizer(names):
    """A CLIP tokenizer whose merges are learned on the names; every byte is a token, so no text is unknown."""
    clip = CLIPTokenizer().backend_tokenizer  # for CLIP's normalizer and word splitting
    words = type(clip)(models.BPE(end_of_word_suffix="</w>"))
    words.normalizer, words.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE - 300, end_of_word_suffix="</w>", show_progress=False)
    words.train_from_iterator(names, trainer)
    merges = [tuple(merge) for merge in json.loads(words.to_str())["model"]["merges"]]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]  # the specials last, as in CLIP's own
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def tokenize(tokenizer, texts, device):
    """Token ids (n, 32)."""
    settings = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
    return tokenizer(texts, **settings).input_ids.to(device)


def text_config(tokenizer, **kwargs):
    """The text encoder of the teacher, and of the judge."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT_SIZE,
        **kwargs,
    )


@torch.no_grad()
def encode(vae, images):
    """Latents (n, 4, h, w), scaled, of images (n, 3, H, W) in [-1, 1]."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(256)])
    return latents * vae.config.scaling_factor


def tidy_configs(folder):
    """Weights are stored in fp16 and meant for float32: what transformers loads goes by the dtype in its config."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a path of this machine
        if "dtype" in config:
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
