# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A saved whole pipeline in plain diffusers, and our pipelines by way of diffusers' own conversions."""

import json
import re
import shutil

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DanceDiffusionPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from tiny_models import build_sd, save_sd
from tiny_students import TIMESTEP, save_students

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.pipelines import DisBackXLPipeline
from disback_diffusers.pipelines.schedulers import one_step_timestep


@pytest.fixture(scope="module")
def stock(family):
    return DiffusionPipeline.from_pretrained(family.folders["full"])


@pytest.fixture(scope="module")
def ours(family):
    return DisBackPipeline.from_pretrained(family.folders["lora"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},  # 50 steps, guidance 7.5 or 5
        {"num_inference_steps": 1},
        {"num_inference_steps": 4, "guidance_scale": 12.0, "negative_prompt": "a dog"},
        {"num_inference_steps": 1, "guidance_scale": 0.0, "timesteps": [TIMESTEP]},
    ],
)
def test_any_call_of_the_stock_pipeline_gives_the_student_s_image(stock, ours, generate, difference, arguments):
    if "timesteps" in arguments:
        arguments = {**arguments, "num_inference_steps": None}
    assert difference(generate(stock, **arguments), generate(ours)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "unet"])
def test_saving_leaves_the_pipeline_s_own_unet_as_it_was(family, kind, tmp_path):
    ours = DisBackPipeline.from_pretrained(family.folders[kind], base_model=family.base)
    before = set(ours.unet.state_dict())
    ours.save_pretrained(tmp_path)
    assert set(ours.unet.state_dict()) == before and ours.unet.config.time_cond_proj_dim is None
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert unet.config.time_cond_proj_dim == 256 and not unet.time_embedding.cond_proj.weight.any()


@pytest.mark.slow
def test_saved_again_by_stock_diffusers(stock, ours, tmp_path, generate, difference):
    stock.save_pretrained(tmp_path)
    again = DisBackPipeline.from_pretrained(tmp_path)
    assert again.conditioning_timestep == TIMESTEP and difference(generate(again), generate(ours)) < 1e-5


@pytest.mark.slow
def test_a_network_that_predicts_x0_has_one_step_only(tmp_path, generate, difference):
    save_students(save_sd(tmp_path / "base", prediction_type="sample"), tmp_path)
    stock, ours = (
        DiffusionPipeline.from_pretrained(tmp_path / "full"),
        DisBackPipeline.from_pretrained(tmp_path / "lora"),
    )
    assert difference(generate(stock, num_inference_steps=1), generate(ours)) < 1e-5
    with pytest.raises(ValueError, match="num_inference_steps"):
        generate(stock)


def test_the_card_of_a_whole_pipeline_runs_and_says_what_diffusers_cannot_know(ours, tmp_path, generate):
    folder = tmp_path / "whole"
    ours.save_pretrained(folder)
    card = (folder / "README.md").read_text()
    for words in ("`guidance_scale` and `negative_prompt` have no effect", "One step is enough", "`strength=1.0`"):
        assert words in card
    assert "base_model=" not in card and "Without backtracking" not in card  # of whose training nothing is known
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        code = code.replace("float16", "float32").replace("cuda", "cpu").replace("path/to/this/folder", str(folder))
        space = {}
        exec(code, space)
        assert isinstance(space["image"], Image.Image)


@pytest.mark.slow
def test_a_pipeline_saved_by_version_0_1(family, ours, tmp_path, generate, difference):
    """Its scheduler is cut off after the timestep, with the betas as they are."""
    folder = tmp_path / "old"
    ours.save_pretrained(folder)
    betas = DiffusionPipeline.from_pretrained(family.base).scheduler.betas[: TIMESTEP + 1].tolist()
    file = folder / "scheduler" / "scheduler_config.json"
    old = {"trained_betas": betas, "original_inference_steps": 1, "timestep_scaling": 10.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), **old}))
    (folder / CONFIG_NAME).unlink()
    again = DisBackPipeline.from_pretrained(folder)
    assert again.conditioning_timestep == TIMESTEP and difference(generate(again), generate(ours)) < 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# from_pipe


@pytest.mark.slow
@pytest.mark.parametrize("timestep", [600, 200])
def test_from_pipe_takes_the_timestep_of_the_saved_pipeline(family, tmp_path, generate, difference, warned, timestep):
    right = DisBackPipeline.from_pretrained(family.folders["lora"], conditioning_timestep=timestep)
    right.save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert one_step_timestep(stock.scheduler) == timestep
    again = DisBackPipeline.from_pipe(stock)
    assert again.conditioning_timestep == timestep and difference(generate(again), generate(right)) < 1e-5
    assert type(again) is type(right) and warned() == []
    with pytest.raises(UsageError, match=f"conditioning_timestep=399: .* saved for timestep {timestep}"):
        DisBackPipeline.from_pipe(stock, conditioning_timestep=399)


def test_a_timestep_is_not_guessed_without_a_warning(family, warned):
    base = DiffusionPipeline.from_pretrained(family.base)
    for make in (DisBackPipeline.from_pipe, lambda pipe: type(DisBackPipeline.from_pipe(pipe))(**pipe.components)):
        assert make(base).conditioning_timestep == 399
        assert any("taking 399" in message and "conditioning_timestep=" in message for message in warned())


def test_from_pipe_of_what_is_no_pipeline(ours):
    for other, remedy in (("folder", "use from_pretrained"), (None, "give a pipeline")):
        with pytest.raises(UsageError, match=f"from_pipe: .*{remedy}"):
            DisBackPipeline.from_pipe(other)
    with pytest.raises(UsageError, match="has no foo"):
        DisBackPipeline.from_pipe(ours, foo=1)
    with pytest.raises(UsageError, match="None is no folder"):
        DisBackPipeline.from_pretrained(None)


def test_a_base_without_the_vocabulary_of_its_tokenizer(sd, tmp_path):
    base = shutil.copytree(sd.base, tmp_path / "base")
    for file in (base / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(UsageError, match="no vocabulary in tokenizer/"):
        DisBackPipeline.from_pretrained(sd.folders["lora"], base_model=base)


def test_from_pipe_keeps_precision_and_components(sd):
    pipe, other = DisBackPipeline.from_pretrained(sd.folders["unet"], dtype=torch.bfloat16), build_sd().vae
    same = DisBackPipeline.from_pipe(pipe, vae=other)
    assert same.unet is pipe.unet and same.unet.dtype == same.text_encoder.dtype == torch.bfloat16
    assert same.vae is other and other.dtype == torch.float32
    assert DisBackPipeline.from_pipe(pipe, dtype=torch.float32).unet.dtype == torch.float32


def test_from_pipe_of_another_kind():
    unet = UNet2DModel(sample_size=8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1,
                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    with pytest.raises(UsageError, match="a DanceDiffusionPipeline has no text_encoder"):
        DisBackPipeline.from_pipe(DanceDiffusionPipeline(unet, DDPMScheduler()))


@pytest.mark.slow
@pytest.mark.parametrize("auto", [AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting])
def test_auto_pipelines_know_ours(family, ours, tmp_path, generate, difference, auto):
    pipe = auto.from_pipe(ours)
    xl = "XL" if isinstance(ours, DisBackXLPipeline) else ""
    names = {"Text2Image": "", "Image2Image": "Img2Img", "Inpainting": "Inpaint"}
    kind = names[auto.__name__.removeprefix("AutoPipelineFor")]
    assert type(pipe).__name__ == f"DisBack{xl}{kind}Pipeline"
    picture = Image.effect_noise((32, 32), 64).convert("RGB")
    arguments = {"image": picture} if kind else {}
    if kind == "Inpaint":
        arguments |= {"mask_image": Image.new("L", (32, 32), 255), "height": 32, "width": 32}
    image = pipe("a cat", generator=torch.Generator().manual_seed(0), output_type="pt", **arguments).images
    stock = auto.from_pipe(DiffusionPipeline.from_pretrained(family.folders["full"]))
    expected = {**arguments, **({"strength": 1.0} if kind else {}), "num_inference_steps": 1}
    theirs = stock("a cat", generator=torch.Generator().manual_seed(0), output_type="pt", **expected).images
    assert difference(image, theirs) < 1e-5
    back = DisBackPipeline.from_pipe(pipe)
    assert type(back) is type(ours) and back.conditioning_timestep == TIMESTEP
    pipe.save_pretrained(tmp_path)
    assert difference(generate(DisBackPipeline.from_pretrained(tmp_path)), generate(ours)) < 1e-5
    if kind:
        for wrong in ({"strength": 0.5}, {"num_inference_steps": 4}, {"guidance_scale": 7.5}):
            with pytest.raises(UsageError, match=next(iter(wrong))):
                pipe("a cat", **arguments, **wrong)
