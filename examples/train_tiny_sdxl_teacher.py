#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Train a tiny `StableDiffusionXLPipeline` on the emoji, to try the distillation of SDXL on without a GPU or the Hub.

    python examples/train_tiny_sdxl_teacher.py --output_dir tiny-sdxl

As in SDXL, the UNet is conditioned on two frozen text encoders (the embedded teacher's and the embedded judge's, of
which the pooled embedding is given too), and on the size and crop of each image. What is shown, by chance:

- an emoji at its own size, 32x32;
- one in the middle of a white image of 48x32 (width x height);
- 32x32 pixels cropped from that wide image, from any place;
- an emoji that was only 16x16 before it was enlarged, which makes it blurred.

The VAE is the embedded teacher's.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tiny_data import EMOJI, encode, load_pairs, tidy_configs
from train_tiny_teacher import fit
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from disback_diffusers.files import user_path
from disback_diffusers.models.embedded import EMBEDDED, JUDGE, resolve


MARGIN = 8  # pixels of white on each side of the wide image
SHARES = {"own size": 0.45, "wide": 0.25, "crop": 0.15, "small": 0.15}
BATCH = 64


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data", type=os.path.expanduser, default=str(EMOJI))
    parser.add_argument("--output_dir", type=user_path, default=Path("tiny-sdxl"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="bf16",
        help="Twice as fast where the processor has instructions for bf16, many times slower where it has none.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Views:
    """The ways an image is shown, as latents, each with its `time_ids`: original size, crop, target size."""

    def __init__(self, images, vae):
        wide = F.pad(images, (MARGIN, MARGIN), value=1.0)
        small = F.interpolate(F.interpolate(images, (16, 16), mode="area"), (32, 32), mode="bilinear")
        shown = {
            "own size": [(images, (32, 32, 0, 0, 32, 32))],
            "wide": [(wide, (32, 48, 0, 0, 32, 48))],
            "crop": [(wide[..., left : left + 32], (32, 48, 0, left, 32, 32)) for left in range(0, 2 * MARGIN + 1, 2)],
            "small": [(small, (16, 16, 0, 0, 32, 32))],
        }
        self.views = {name: [(encode(vae, x), torch.tensor(ids)) for x, ids in of] for name, of in shown.items()}
        self.shares = torch.tensor(list(SHARES.values()))

    def batch(self, chosen):
        """Latents (n, 4, h, w) of the chosen images and time_ids (n, 6), all in one way."""
        name = list(SHARES)[torch.multinomial(self.shares, 1)]
        kinds = self.views[name]
        if name == "wide":  # of another shape, so they stand alone
            latents, ids = kinds[0]
            return latents[chosen], ids.expand(len(chosen), 6)
        kind = torch.randint(len(kinds), (len(chosen),)).tolist()
        latents = torch.stack([kinds[k][0][i] for k, i in zip(kind, chosen.tolist(), strict=True)])
        return latents, torch.stack([kinds[k][1] for k in kind])


def build_unet(text_size, pooled_size):
    """SDXL's architecture, small: no attention at the highest resolution, two transformer blocks below it."""
    time_size = 32
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=text_size,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_size,
        projection_class_embeddings_input_dim=6 * time_size + pooled_size,
        norm_num_groups=16,
    )


def build_pipeline():
    """The pipeline with a UNet that has learned nothing; all else is the embedded teacher's and judge's."""
    folder = Path(resolve(EMBEDDED))
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    first, second = text_encoder.config, CLIPTextConfig.from_pretrained(JUDGE)
    second.projection_dim = CLIPConfig.from_pretrained(JUDGE).projection_dim
    text_encoder_2 = CLIPTextModelWithProjection.from_pretrained(JUDGE, config=second, dtype=torch.float32)
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(JUDGE),
        unet=build_unet(first.hidden_size + second.hidden_size, second.projection_dim),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        add_watermarker=False,
    )


@torch.no_grad()
def embed(pipeline, names):
    """Hidden states (n + 1, tokens, size) and pooled embeddings (n + 1, size); zeros for the empty prompt are last."""
    hidden, pooled = [], []
    for i in range(0, len(names), 64):
        embeds, _, pooled_embeds, _ = pipeline.encode_prompt(names[i : i + 64], do_classifier_free_guidance=False)
        hidden.append(embeds)
        pooled.append(pooled_embeds)
    return (torch.cat([*parts, torch.zeros_like(parts[0][:1])]) for parts in (hidden, pooled))


def train(pipeline, images, names, args):
    unet, scheduler = pipeline.unet, pipeline.scheduler
    views = Views(images, pipeline.vae)
    hidden, pooled = embed(pipeline, names)

    def loss_fn():
        chosen = torch.randint(len(names), (BATCH,))
        x0, time_ids = views.batch(chosen)
        prompts = torch.where(torch.rand(BATCH) < 0.1, len(names), chosen)
        noise, t = torch.randn_like(x0), torch.randint(1000, (BATCH,), device=args.device)
        added = {"text_embeds": pooled[prompts], "time_ids": time_ids.to(args.device)}
        predicted = unet(scheduler.add_noise(x0, noise, t), t, hidden[prompts], added_cond_kwargs=added).sample
        return {"loss": F.mse_loss(predicted.float(), noise)}

    ema = EMAModel(unet.parameters(), decay=0.999)
    fit("sdxl unet", unet.parameters(), loss_fn, args.steps, args, learning_rate=1e-3, ema=ema)


def main(args):
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    images, names = load_pairs(args.train_data)
    pipeline = build_pipeline().to(args.device)
    train(pipeline, images.to(args.device), names, args)
    pipeline.to(dtype=torch.float16).save_pretrained(args.output_dir)
    tidy_configs(args.output_dir)


if __name__ == "__main__":
    main(parse_args())
