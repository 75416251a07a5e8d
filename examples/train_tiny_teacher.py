#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Train the embedded teacher: a tiny `StableDiffusionPipeline` (32x32 emoji) and a tiny `CLIPModel` that judges it.

    python examples/train_tiny_teacher.py --output_dir tiny-teacher

writes `tiny-teacher/teacher` (the pipeline), `tiny-teacher/judge` (CLIPModel + tokenizer), `tiny-teacher/prompts.txt`
and `tiny-teacher/training_log.jsonl`, all weights in fp16. The parts can be trained one by one (`--parts vae`), in the
order vae, unet; the judge is independent of both. This is no part of distilling a model of your own.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from tiny_data import EMOJI, TEXT_SIZE, build_tokenizer, encode, load_pairs, text_config, tidy_configs, tokenize
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionConfig

from disback_diffusers.evaluation.frechet import statistics
from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.files import user_path


def parse_args(input_args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data", type=os.path.expanduser, default=str(EMOJI), help="Columns image, text.")
    parser.add_argument("--output_dir", type=user_path, default=Path("tiny-teacher"))
    parser.add_argument("--parts", nargs="+", choices=("vae", "unet", "judge"), default=("vae", "unet", "judge"))
    parser.add_argument("--vae_steps", type=int, default=4000)
    parser.add_argument("--unet_steps", type=int, default=4500)
    parser.add_argument("--judge_steps", type=int, default=2000)
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        default="bf16",
        help="Twice as fast where the processor has instructions for bf16, many times slower where it has none.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(input_args)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def fit(name, parameters, loss_fn, steps, args, learning_rate, ema=None, weight_decay=0.0):
    """AdamW with a one-cycle learning rate; `loss_fn()` chooses its own batch and returns a dict with `loss`."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    start = time.perf_counter()
    with open(args.output_dir / "training_log.jsonl", "a", encoding="utf-8") as log:
        for step in (bar := tqdm(range(1, steps + 1), desc=name, mininterval=10)):
            with torch.autocast(args.device, torch.bfloat16, enabled=args.mixed_precision == "bf16"):
                losses = loss_fn()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.step(parameters)
            if step % 100 == 0 or step == steps:
                values = {key: round(value.item(), 5) for key, value in losses.items()}
                bar.set_postfix(values)
                seconds = round(time.perf_counter() - start, 1)
                log.write(json.dumps({"part": name, "step": step, **values, "seconds": seconds}) + "\n")
                log.flush()
    if ema is not None:
        ema.copy_to(parameters)


def train_vae(images, args):
    """AutoencoderKL, 4 latent channels at a quarter of the size; L1 on pixels and their differences, some KL."""
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    ).to(args.device)

    def loss_fn():
        batch = images[torch.randint(len(images), (64,))]
        batch = torch.where(torch.rand(64, 1, 1, 1, device=args.device) < 0.5, batch, batch.flip(-1))
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample()).sample.float()
        error = decoded - batch
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = posterior.kl().mean()
        pixel = error.abs().mean()
        return {"loss": pixel + error.square().mean() + 0.5 * edges + 1e-5 * kl, "pixel": pixel, "kl": kl}

    fit("vae", vae.parameters(), loss_fn, args.vae_steps, args, learning_rate=2e-3)
    with torch.no_grad():
        vae.register_to_config(scaling_factor=round(1 / vae.encode(images).latent_dist.mean.std().item(), 5))
        decoded = torch.cat([vae(part).sample for part in images.split(256)]).clamp(-1, 1)
    print(f"vae: PSNR {10 * torch.log10(4 / (decoded - images).square().mean()):.2f} dB")
    return vae


def train_unet(images, names, vae, tokenizer, args):
    """The conditional UNet with its text encoder, on epsilon, with 10 % empty prompts. Returns the pipeline."""
    text_encoder = CLIPTextModel(text_config(tokenizer)).to(args.device)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=TEXT_SIZE["hidden_size"],
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(args.device)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",  # Stable Diffusion's, so that its timesteps mean the same here
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    latents = encode(vae, images)
    ids, empty = tokenize(tokenizer, names, args.device), tokenize(tokenizer, [""], args.device)

    def loss_fn():
        chosen = torch.randint(len(latents), (64,))
        x0, noise = latents[chosen], torch.randn(64, *latents.shape[1:], device=args.device)
        t = torch.randint(1000, (64,), device=args.device)
        prompt = torch.where(torch.rand(64, 1, device=args.device) < 0.1, empty, ids[chosen])
        embeddings = text_encoder(prompt).last_hidden_state
        predicted = unet(scheduler.add_noise(x0, noise, t), t, embeddings).sample
        return {"loss": F.mse_loss(predicted.float(), noise)}

    parameters = [*unet.parameters(), *text_encoder.parameters()]
    ema = EMAModel(parameters, decay=0.999)
    fit("unet", parameters, loss_fn, args.unet_steps, args, learning_rate=1e-3, ema=ema)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def augment(images):
    """Random shift, scale, turn, colour, blur and noise: the judge should learn what is shown, not pixels."""
    n, device = len(images), images.device
    angle, scale = torch.randn(n, device=device) * 0.1, 1 + torch.randn(n, device=device) * 0.1
    shift = torch.randn(n, 2, device=device) * 0.08
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    moved = F.grid_sample(images - 1, grid, align_corners=False) + 1  # white outside
    colour = 1 + torch.randn(n, 3, 1, 1, device=device) * 0.1
    blurred = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), value=1.0), 3, stride=1)
    moved = moved.lerp(blurred, torch.rand(n, 1, 1, 1, device=device))
    noise = torch.randn_like(moved) * torch.rand(n, 1, 1, 1, device=device) * 0.15
    return ((moved - 1) * colour + 1 + noise).clamp(-1, 1)


def train_judge(images, names, tokenizer, args):
    """CLIP on the same pairs, augmented; images go in as (n, 3, 32, 32) in [-1, 1]."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=32,
        patch_size=4,
    )
    config = CLIPConfig(
        text_config=text_config(tokenizer).to_dict(), vision_config=vision.to_dict(), projection_dim=64
    )
    judge = CLIPModel(config).to(args.device)
    ids = tokenize(tokenizer, names, args.device)

    def loss_fn():
        chosen = torch.randperm(len(images))[:128]
        out = judge(input_ids=ids[chosen], pixel_values=augment(images[chosen]), return_loss=True)
        return {"loss": out.loss.float()}

    fit("judge", judge.parameters(), loss_fn, args.judge_steps, args, learning_rate=1e-3, weight_decay=0.05)
    return judge.eval()


def write_reference(images, names, judge_folder, args):
    """reference.safetensors: what the judge's features of the real images are like, and how many it recognises."""
    judge = Judge(judge_folder)
    features = judge.image_features((images.cpu() + 1) / 2)
    mean, covariance = statistics(features)
    retrieval = torch.tensor(judge.retrieval(features, judge.text_features(names)))
    tensors = {"mean": mean.float(), "covariance": covariance.float(), "retrieval": retrieval}
    save_file(tensors, args.output_dir / "reference.safetensors")
    print(f"judge: top-10 retrieval of the real images {retrieval:.1%}")


def main(args):
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    images, names = load_pairs(args.train_data)
    images = images.to(args.device)
    (args.output_dir / "prompts.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    tokenizer = build_tokenizer(names)
    teacher, judge = args.output_dir / "teacher", args.output_dir / "judge"
    if "vae" in args.parts:
        train_vae(images, args).half().save_pretrained(teacher / "vae")
    if "unet" in args.parts:
        vae = AutoencoderKL.from_pretrained(teacher / "vae").to(args.device)
        train_unet(images, names, vae, tokenizer, args).to(dtype=torch.float16).save_pretrained(teacher)
        tidy_configs(teacher)
    if "judge" in args.parts:
        train_judge(images, names, tokenizer, args).half().save_pretrained(judge)
        tokenizer.save_pretrained(judge)
        tidy_configs(judge)
        write_reference(images, names, judge, args)


if __name__ == "__main__":
    main(parse_args())
