# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a pipeline may be called with: as a stock call has it, or one clear line."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from tiny_students import TIMESTEP, noise

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.errors import NotFiniteError


@pytest.fixture(scope="module")
def pipe(family):
    return DisBackPipeline.from_pretrained(family.folders["lora"])


STOCK = [
    *({"negative_prompt": value} for value in (None, "", ["", ""], [])),
    *({"callback_on_step_end_tensor_inputs": value} for value in (None, ["latents"])),
    *({"eta": 0.0}, {"eta": 0.7}, {"guidance_rescale": 0.0}, {"sigmas": None}, {"ip_adapter_image": None}),
    *({"guidance_scale": value} for value in (0, 1, 1.0, 0.5)),
    *({"timesteps": value} for value in (399, [399], (399,), torch.tensor([399]), np.array([399]))),
    {"num_inference_steps": 1},
    {"num_inference_steps": 1, "timesteps": [399]},
    {"cross_attention_kwargs": {"scale": 1.0}},
    {"height": np.int64(32), "width": 32},
    *({"timesteps": value} for value in (np.int64(399), torch.tensor(399))),
    {"num_inference_steps": np.int64(1)},
    {"guidance_scale": np.float32(1.0), "eta": None},
    {"generator": [torch.Generator(), torch.Generator()]},
    {"generator": (torch.Generator(), torch.Generator())},
]
STOCK_XL = [
    {"denoising_end": 1.0},
    {"negative_prompt_2": ""},
    {"negative_crops_coords_top_left": (0, 0), "negative_original_size": None},
    {"original_size": [32, 32], "target_size": np.array([32, 32]), "crops_coords_top_left": None},
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", STOCK, ids=",".join)
def test_what_changes_nothing_is_accepted(pipe, generate, arguments):
    assert torch.equal(generate(pipe, ["a cat", "a dog"], n=2, **arguments), generate(pipe, ["a cat", "a dog"], n=2))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize("arguments", STOCK_XL, ids=",".join)
def test_what_changes_nothing_is_accepted_by_sdxl(pipe, generate, arguments):
    assert torch.equal(generate(pipe, **arguments), generate(pipe))


WRONG = [
    ({"prompt": []}, r"prompt=\[\] must be"),
    ({"prompt": ["a cat", None]}, "prompt=.*must be"),
    ({"prompt": 3}, "prompt=3 must be"),
    ({"prompt": None}, "either prompt or prompt_embeds"),
    ({"prompt_embeds": torch.zeros(1, 77, 32)}, "either prompt or prompt_embeds"),
    ({"prompt": None, "prompt_embeds": [1.0]}, "prompt_embeds must be a torch.Tensor"),
    ({"num_inference_steps": 4}, "num_inference_steps=4: .* trained for 1 step"),
    ({"num_inference_steps": "1"}, "num_inference_steps='1'"),
    ({"num_inference_steps": 0}, "num_inference_steps=0"),
    ({"timesteps": [999]}, r"timesteps=\[999\]: .* trained for timesteps=\[399\]"),
    ({"timesteps": "x"}, "timesteps='x' must be a list"),
    ({"timesteps": [399], "num_inference_steps": 2}, "num_inference_steps=2 contradicts"),
    ({"sigmas": [14.6, 0.0]}, "sigmas: "),
    ({"guidance_scale": 7.5}, "guidance_scale=7.5: the student has learned guidance"),
    ({"guidance_scale": "7.5"}, "guidance_scale='7.5' must be a number"),
    ({"guidance_rescale": 0.7}, "guidance_rescale=0.7"),
    ({"eta": "x"}, "eta='x'"),
    ({"negative_prompt": "ugly"}, "negative_prompt: the student"),
    ({"negative_prompt": ["", "ugly"]}, "negative_prompt: the student"),
    ({"negative_prompt_embeds": torch.zeros(1, 77, 32)}, "negative_prompt_embeds: the student"),
    ({"ip_adapter_image": Image.new("RGB", (8, 8))}, "load_ip_adapter"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 must be"),
    ({"num_images_per_prompt": -1}, "num_images_per_prompt=-1 must be"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt=1.5 must be"),
    ({"num_images_per_prompt": "2"}, "num_images_per_prompt='2' must be"),
    ({"height": "32"}, "height='32' must be"),
    ({"width": -8}, "width=-8 must be"),
    ({"clip_skip": "1"}, "clip_skip='1' must be"),
    ({"cross_attention_kwargs": 0.5}, "cross_attention_kwargs=0.5 must be a dict"),
    ({"output_type": "jpg"}, "output_type='jpg' must be one of"),
    ({"generator": 42}, r"generator=42 .*torch.Generator\(\).manual_seed\(42\)"),
    ({"generator": [1, 2]}, r"generator=1 .*manual_seed\(1\)"),
    ({"generator": [torch.Generator(), torch.Generator()]}, "2 were given for 1 images"),
    ({"latents": np.zeros((1, 4, 16, 16), np.float32)}, "latents is a ndarray: .*torch.from_numpy"),
    ({"latents": torch.zeros(2, 4, 16, 16)}, r"latents has shape \(2, 4, 16, 16\): 1 images need \(1, 4"),
    ({"latents": torch.zeros(4, 16, 16)}, "latents has shape"),
    ({"latents": torch.full((1, 4, 16, 16), torch.nan)}, "latents must be finite"),
    ({"latents": torch.zeros(1, 4, 16, 16, dtype=torch.complex64)}, "latents must be finite real numbers"),
    ({"latents": torch.zeros(1, 4, 16, 16, device="meta")}, "latents must be finite real numbers"),
    ({"latents": torch.zeros(1, 4, 0, 16)}, "latents has shape"),
    ({"num_inference_steps": 1.0}, "num_inference_steps=1.0 must be a whole number"),
    ({"num_inference_steps": True}, "num_inference_steps=True must be a whole number"),
    ({"timesteps": "399"}, "timesteps='399' must be a list"),
    ({"timesteps": [399.7]}, r"timesteps=\[399.7\] must be a list"),
    ({"timesteps": ["399"]}, r"timesteps=\['399'\] must be a list"),
    ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a number"),
    ({"generator": True}, "generator=True .*give a torch.Generator"),
    ({"generator": [None]}, "generator=None is no"),
    ({"prompt": "\ud800 cat"}, "lone surrogate"),
    ({"height": 33}, "height=33 must be a multiple of 8"),
    ({"clip_skip": 99}, "clip_skip=99 must be less than 2"),
    ({"cross_attention_kwargs": {"scale": float("nan")}}, "must be a finite number other than 0"),
    ({"cross_attention_kwargs": {"scale": 0}}, r"other than 0; pipe.disable_lora\(\)"),
    ({"cross_attention_kwargs": {"scale": "x"}}, "must be a finite number"),
    ({"callback_on_step_end": 5}, "callback_on_step_end=5 must be a function"),
    ({"callback_on_step_end_tensor_inputs": "latents"}, "must be a list of names"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 5)}, r"prompt_embeds is \(1, 77, 5\)"),
]
WRONG_XL = [
    ({"denoising_end": 0.8}, "denoising_end=0.8"),
    ({"negative_prompt_2": "ugly"}, "negative_prompt_2: the student"),
    ({"negative_original_size": (8, 8)}, "negative_original_size: the student"),
    ({"negative_pooled_prompt_embeds": torch.zeros(1, 32)}, "negative_pooled_prompt_embeds: the student"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 64)}, "needs pooled_prompt_embeds"),
    ({"prompt": ["a", "b"], "prompt_2": "c"}, "prompt_2 must have as many texts as prompt, 2"),
    ({"original_size": 32}, "original_size=32 must be two numbers"),
    ({"target_size": (32,)}, "must be two numbers"),
    ({"original_size": (float("nan"), 32)}, "must be two numbers"),
    *(
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 64), **more}, message)
        for more, message in (
            ({"pooled_prompt_embeds": torch.zeros(1, 5)}, r"pooled_prompt_embeds is \(1, 5\): .* \(1, 32\)"),
            ({"pooled_prompt_embeds": torch.zeros(2, 32)}, r"pooled_prompt_embeds is \(2, 32\)"),
            ({"pooled_prompt_embeds": np.zeros((1, 32))}, "pooled_prompt_embeds is ndarray"),
            ({"pooled_prompt_embeds": torch.full((1, 32), torch.inf)}, "pooled_prompt_embeds must be finite"),
            ({"pooled_prompt_embeds": torch.zeros(1, 32), "prompt_2": "c"}, "prompt_2 needs prompt"),
        )
    ),
]


@pytest.mark.parametrize(
    "arguments, message", WRONG, ids=lambda value: value[:40] if isinstance(value, str) else ",".join(value)
)
def test_wrong_values_have_one_clear_line(pipe, arguments, message):
    with pytest.raises(UsageError, match=message):
        pipe(**{"prompt": "a cat", **arguments})


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize(
    "arguments, message", WRONG_XL, ids=lambda value: value[:40] if isinstance(value, str) else ",".join(value)
)
def test_wrong_values_of_sdxl(pipe, arguments, message):
    with pytest.raises(UsageError, match=message):
        pipe(**{"prompt": "a cat", **arguments})


@pytest.mark.slow
def test_one_clear_line_for_parts_that_are_missing(sd):
    for name in ("vae", "tokenizer", "text_encoder"):
        pipe = DisBackPipeline.from_pretrained(sd.folders["unet"], **{name: None})
        with pytest.raises(UsageError, match=f"loaded with {name}=None"):
            pipe("a cat")
    pipe = DisBackPipeline.from_pretrained(sd.folders["unet"])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(UsageError, match="pipe.scheduler is a DDIMScheduler"):
        pipe("a cat")


def test_latents_of_another_precision(pipe, generate):
    assert torch.equal(generate(pipe, latents=noise().double()), generate(pipe))


def test_arguments_that_stock_has_in_another_order_need_their_names(pipe):
    with pytest.raises(TypeError):
        pipe("a cat", 32, 32, 4)


def test_all_output_types_as_in_diffusers(sd, generate):
    """They are made here, once the images are known to be finite."""
    stock, ours = (cls.from_pretrained(sd.folders["full"]) for cls in (DiffusionPipeline, DisBackPipeline))
    for kind in ("pil", "np", "pt", "latent"):
        call = {"latents": noise(), "output_type": kind, "num_inference_steps": 1, "return_dict": False}
        expected, images = stock("a cat", **call), ours("a cat", **call)
        assert len(expected) == len(images) and type(expected[0]) is type(images[0])
        assert np.array_equal(np.asarray(expected[0]), np.asarray(images[0]))


@pytest.mark.parametrize("part", ["unet.conv_out", "vae.decoder.conv_out", "text_encoder"])
@pytest.mark.parametrize("kind", ["pil", "latent"])
def test_no_image_is_made_of_values_that_are_not_finite(sd, part, kind):
    pipe = DisBackPipeline.from_pretrained(sd.folders["unet"])
    name, _, layer = part.partition(".")
    torch.nn.init.constant_(next(getattr(pipe, name).get_submodule(layer).parameters()), torch.nan)
    if (name, kind) == ("vae", "latent"):
        return
    with pytest.raises(NotFiniteError, match="2 of 2 images have values that are not finite numbers; check") as raised:
        pipe(["a cat", "a dog"], output_type=kind)
    assert raised.value.images == [0, 1]


@pytest.mark.parametrize("timestep", ["399", 399.5, True, 399.0])
def test_a_conditioning_timestep_that_is_no_whole_number(sd, timestep):
    with pytest.raises(UsageError, match="conditioning_timestep=.* must be a whole number"):
        DisBackPipeline.from_pretrained(sd.folders["lora"], conditioning_timestep=timestep)


@pytest.mark.parametrize("kind", ["lora", "unet", "full"])
def test_without_a_unet_it_encodes_prompts(sd, kind):
    pipe = DisBackPipeline.from_pretrained(sd.folders[kind], unet=None, vae=None)
    assert pipe.encode_prompt("a cat", "cpu", 1, False)[0].shape == (1, 77, 32)
    with pytest.raises(UsageError, match="unet=None: it can encode prompts, but not generate"):
        pipe("a cat")


def test_a_given_unet_takes_the_place_of_the_saved_one(sd, generate, difference):
    for kind in ("unet", "full"):
        other = DisBackPipeline.from_pretrained(sd.folders["unet"]).unet
        torch.nn.init.zeros_(other.conv_out.weight)
        pipe = DisBackPipeline.from_pretrained(sd.folders[kind], unet=other)
        assert pipe.unet is other
        assert difference(generate(pipe), generate(DisBackPipeline.from_pretrained(sd.folders[kind]))) > 1e-2


def test_an_ip_adapter_reaches_the_student(sd, generate, difference):
    pipe = DisBackPipeline.from_pretrained(sd.folders["unet"])
    size, torch_state = pipe.unet.config.cross_attention_dim, torch.manual_seed(0)
    names = [name for name in pipe.unet.attn_processors if "attn2" in name]
    layers = {name: pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.weight for name in names}
    keys = {
        f"{2 * i + 1}.to_{part}_ip.weight": torch.randn(layer.shape[0], size, generator=torch_state)
        for i, layer in enumerate(layers.values())
        for part in "kv"
    }
    shapes = {"proj.weight": (4 * size, 16), "proj.bias": (4 * size,), "norm.weight": (size,), "norm.bias": (size,)}
    projection = {key: torch.randn(shape, generator=torch_state) for key, shape in shapes.items()}
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}])
    images = [generate(pipe, ip_adapter_image_embeds=[torch.full((1, 1, 16), value)]) for value in (0.0, 3.0)]
    assert difference(*images) > 1e-3


def test_seeds_and_shapes_as_before(pipe, generate):
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    assert generate(pipe, "a cat", latents=None, num_images_per_prompt=2, generator=seeds).shape == (2, 3, 32, 32)
    assert pipe.conditioning_timestep == TIMESTEP and generate(pipe, latents=noise()).shape == (1, 3, 32, 32)
