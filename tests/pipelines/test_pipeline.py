# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from tiny_models import SCHEDULER, build_sd, save_sd
from tiny_students import TIMESTEP, noise, save_students, write_config

from disback_diffusers import DisBackPipeline, NoiseSchedule, RunError, UsageError
from disback_diffusers.files import CONFIG_NAME, LORA_NAME
from disback_diffusers.pipelines.schedulers import one_step_scheduler


KINDS = ("lora", "unet", "full")
PROMPT = "a photo of the red cat"
ONE_STEP = {"num_inference_steps": 1, "timesteps": [TIMESTEP], "guidance_scale": 0}


class Students:
    """The three students of one teacher; pipelines are loaded once."""

    def __init__(self, folder, prediction_type):
        self.base = save_sd(folder / "teacher", prediction_type=prediction_type)
        self.folders, self.roles = save_students(self.base, folder)

    @cache
    def pipe(self, kind):
        return quiet(DisBackPipeline.from_pretrained(self.folders[kind]))


@pytest.fixture(scope="module")
def make_students(tmp_path_factory):
    return cache(lambda prediction_type: Students(tmp_path_factory.mktemp(prediction_type), prediction_type))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def students(request, make_students):
    return make_students(request.param)


@pytest.fixture(scope="module")
def epsilon(make_students):
    return make_students("epsilon")


@pytest.fixture(scope="module")
def pipe(epsilon):
    return epsilon.pipe("lora")


@pytest.fixture
def lora(epsilon, tmp_path):
    """A copy of the LoRA artifact to change."""
    return shutil.copytree(epsilon.folders["lora"], tmp_path / "lora")


@pytest.fixture
def warned(caplog):
    """Warnings of diffusers."""
    logging.enable_propagation()
    yield lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    logging.disable_propagation()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe, **kwargs):
    return quiet(pipe)(PROMPT, latents=noise(), output_type="pt", **kwargs).images


# ---------------------------------------------------------------------------------------------------------------------
# The one step


@pytest.mark.parametrize("timestep", [16, 399, 998])
@pytest.mark.parametrize("settings", [{}, {"beta_schedule": "linear"}, {"rescale_betas_zero_snr": True}])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_step_is_the_x0_estimate(prediction_type, settings, timestep):
    teacher = DDIMScheduler(**{**SCHEDULER, **settings, "prediction_type": prediction_type, "clip_sample": False})
    scheduler = one_step_scheduler(teacher, timestep)
    scheduler.set_timesteps(1)  # where plain diffusers starts without `timesteps`
    assert scheduler.timesteps.tolist() == [timestep]
    z, output = noise(2, seed=1), noise(2, seed=2)
    x0 = NoiseSchedule.from_scheduler(teacher).to_x0(output, z, timestep)
    error = (scheduler.step(output, scheduler.timesteps[0], z).prev_sample - x0).abs().max()
    assert error < 1e-4 * x0.abs().max().clamp(min=1)


def test_step_of_a_saved_scheduler_is_the_same(tmp_path, warned):
    teacher = PNDMScheduler(**SCHEDULER, skip_prk_steps=True)
    scheduler = one_step_scheduler(teacher, TIMESTEP)
    scheduler.save_pretrained(tmp_path)
    assert torch.equal(LCMScheduler.from_pretrained(tmp_path).alphas_cumprod, scheduler.alphas_cumprod)
    assert torch.equal(one_step_scheduler(scheduler, TIMESTEP).alphas_cumprod, scheduler.alphas_cumprod)
    assert warned() == []  # as there would be about settings that only PNDM has


@pytest.mark.parametrize("timestep", [-1, 0, 1000])
def test_timestep_out_of_range(timestep):
    with pytest.raises(UsageError, match=f"timestep {timestep} .* 1 to 999"):
        one_step_scheduler(build_sd().scheduler, timestep)


def test_an_epsilon_student_does_not_start_from_pure_noise():
    parts = build_sd(rescale_betas_zero_snr=True).components
    for few_step in (False, True):
        with pytest.raises(UsageError, match="timestep 999 is pure noise"):
            DisBackPipeline(**parts, conditioning_timestep=999, few_step=few_step)


def test_loading_and_calling_is_one_forward_without_a_warning(epsilon, warned):
    pipe, calls = quiet(DisBackPipeline.from_pretrained(epsilon.folders["lora"])), []
    pipe.unet.register_forward_pre_hook(lambda module, args: calls.append((args[0].shape[0], int(args[1]))))
    pipe([PROMPT, "a dog"], num_images_per_prompt=2, output_type="latent")
    assert calls == [(4, TIMESTEP)]
    assert warned() == []


# ---------------------------------------------------------------------------------------------------------------------
# Three kinds of artifact


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_gives_what_was_trained(students, kind):
    pipe, z = students.pipe(kind), noise()
    assert pipe.conditioning_timestep == TIMESTEP
    with torch.no_grad():
        output = students.roles.network(z, TIMESTEP, pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]).sample
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler.from_pretrained(students.base, subfolder="scheduler"))
    latents = pipe(PROMPT, latents=z, output_type="latent").images
    assert torch.allclose(latents, schedule.to_x0(output, z, TIMESTEP), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_diffusers_gives_the_same_image(students, kind):
    folder, parts = students.folders[kind], {}
    if kind == "unet":
        parts = {"unet": UNet2DConditionModel.from_pretrained(folder, subfolder="unet")}
    plain = DiffusionPipeline.from_pretrained(folder if kind == "full" else students.base, **parts)
    assert type(plain) is StableDiffusionPipeline
    if kind != "full":
        plain.scheduler = LCMScheduler.from_config(plain.scheduler.config)
    if kind == "lora":
        teacher = image(plain, **ONE_STEP)
        plain.load_lora_weights(folder)
        assert not torch.allclose(image(plain, **ONE_STEP), teacher, atol=1e-2)
    ours = image(students.pipe(kind))
    assert torch.allclose(image(plain, **ONE_STEP), ours, atol=1e-4)
    if kind == "full":  # its scheduler starts at the right timestep by itself
        assert torch.allclose(image(plain, num_inference_steps=1, guidance_scale=0), ours, atol=1e-4)


def test_unet_at_the_top_of_the_folder(epsilon, tmp_path):
    base, folders = epsilon.base, epsilon.folders
    shutil.copytree(folders["unet"] / "unet", tmp_path, dirs_exist_ok=True)
    write_config(tmp_path, "full", base)
    assert torch.equal(image(DisBackPipeline.from_pretrained(tmp_path)), image(epsilon.pipe("unet")))


@pytest.mark.parametrize("student, adapters", [("lora", ["disback"]), ("full", [])])
def test_config_decides_between_a_lora_and_a_unet(epsilon, lora, student, adapters):
    base, folders = epsilon.base, epsilon.folders
    shutil.copytree(folders["unet"] / "unet", lora / "unet")
    write_config(lora, student, base)
    assert list(getattr(DisBackPipeline.from_pretrained(lora).unet, "peft_config", {})) == adapters


@pytest.mark.parametrize("kind", KINDS)
def test_dtype(epsilon, kind):
    pipe = quiet(DisBackPipeline.from_pretrained(epsilon.folders[kind], dtype=torch.bfloat16))
    dtypes = {p.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()}
    assert dtypes == {torch.bfloat16}
    assert pipe(PROMPT, output_type="pt").images.isfinite().all()


def test_variant_is_the_base_s(epsilon, tmp_path):
    base, folders = epsilon.base, epsilon.folders
    StableDiffusionPipeline.from_pretrained(base).save_pretrained(tmp_path / "base", variant="fp16")
    for kind in ("lora", "unet"):
        pipe = DisBackPipeline.from_pretrained(folders[kind], tmp_path / "base", variant="fp16")
        assert torch.allclose(image(pipe), image(epsilon.pipe(kind)), atol=1e-5)


@pytest.mark.slow
def test_the_recorded_variant_is_that_of_the_recorded_base(epsilon, lora, tmp_path):
    half = tmp_path / "half"
    StableDiffusionPipeline.from_pretrained(epsilon.base).save_pretrained(half, variant="fp16")
    config = json.loads((lora / CONFIG_NAME).read_text())
    (lora / CONFIG_NAME).write_text(json.dumps({**config, "base_model": str(half), "variant": "fp16"}))
    pipe, expected = DisBackPipeline.from_pretrained(lora), image(epsilon.pipe("lora"))
    assert torch.allclose(image(pipe), expected, atol=1e-5)
    DisBackPipeline.from_pretrained(lora, epsilon.base)  # another base, which has no such variant
    for name, variant in (("plain", None), ("fp16", "fp16")):
        pipe.save_pretrained(tmp_path / name, variant=variant)
        assert torch.allclose(image(DisBackPipeline.from_pretrained(tmp_path / name)), expected, atol=1e-4)
    (lora / CONFIG_NAME).write_text(json.dumps({**config, "base_model": str(half)}))
    with pytest.raises(UsageError, match='weights in .*/ as variant fp16 only: .*variant="fp16"'):
        DisBackPipeline.from_pretrained(lora)


def test_a_student_is_no_base(epsilon, tmp_path):
    for kind in ("lora", "unet"):
        with pytest.raises(UsageError, match="full is a student itself, .* base_model="):
            DisBackPipeline.from_pretrained(epsilon.folders[kind], epsilon.folders["full"])


@pytest.mark.parametrize("file", [LORA_NAME, "unet/diffusion_pytorch_model.safetensors"])
def test_a_file_instead_of_its_folder(epsilon, file):
    folder = epsilon.folders["lora" if file == LORA_NAME else "unet"]
    with pytest.raises(UsageError, match="is a file: give the folder that holds it"):
        DisBackPipeline.from_pretrained(folder / file)
    with pytest.raises(UsageError, match="sd.safetensors: there is no such file. A single file .* made a folder"):
        DisBackPipeline.from_pretrained(epsilon.folders["lora"], "models/sd.safetensors")


def test_a_dora_is_refused(lora):
    from safetensors.torch import load_file, save_file

    state = load_file(lora / LORA_NAME)
    key = next(key for key in state if key.endswith("lora_A.weight"))
    save_file({**state, key.replace("lora_A.weight", "dora_scale"): torch.ones(1)}, lora / LORA_NAME)
    with pytest.raises(UsageError, match=f"{LORA_NAME} is a DoRA: it has 1 scales"):
        DisBackPipeline.from_pretrained(lora)


# ---------------------------------------------------------------------------------------------------------------------
# Which base


@pytest.mark.slow
def test_base_comes_from_the_argument_then_the_config_then_the_card(epsilon, lora, tmp_path):
    others = {name: save_sd(tmp_path / name, seed=seed) for seed, name in enumerate(("argument", "card"), 1)}
    (lora / "README.md").write_text(f"---\nbase_model:\n- {others['card']}\n---\n# Student\n")

    def base_of(*args):
        return DisBackPipeline.from_pretrained(lora, *args).name_or_path

    assert base_of(others["argument"]) == str(others["argument"])
    assert base_of() == str(epsilon.base)
    write_config(lora, "lora", None)
    assert base_of() == str(others["card"])
    (lora / "README.md").write_text("---\nbase_model: [\n---\n")
    with pytest.raises(UsageError, match="README.md is not valid YAML"):
        base_of()
    (lora / "README.md").unlink()
    with pytest.raises(UsageError, match="pass base_model="):
        base_of()


def test_a_student_of_version_0_1(epsilon, lora, tmp_path):
    """Its disback_config.json has format 1."""
    config = json.loads((lora / CONFIG_NAME).read_text())
    assert config.pop("timesteps") == [TIMESTEP]
    (lora / CONFIG_NAME).write_text(json.dumps({**config, "format": 1, "conditioning_timestep": 299}))
    pipe = DisBackPipeline.from_pretrained(lora)
    assert pipe.conditioning_timestep == 299 and not pipe.config.few_step
    expected = DisBackPipeline.from_pretrained(epsilon.folders["lora"], conditioning_timestep=299)
    assert torch.equal(image(pipe), image(expected))
    pipe.save_pretrained(tmp_path / "whole")
    saved = json.loads((tmp_path / "whole" / CONFIG_NAME).read_text())
    assert (saved["format"], saved["timesteps"]) == (2, [299]) and "conditioning_timestep" not in saved


def test_without_a_config_the_usual_timestep_is_taken_with_a_warning(epsilon, lora, warned):
    (lora / CONFIG_NAME).unlink()
    assert DisBackPipeline.from_pretrained(lora, epsilon.base).conditioning_timestep == 399
    assert any("pass conditioning_timestep=" in message for message in warned())
    assert DisBackPipeline.from_pretrained(lora, epsilon.base, conditioning_timestep=499).conditioning_timestep == 499


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be loaded


def test_no_artifact(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UsageError, match=f"{LORA_NAME}.*of a UNet"):
        DisBackPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["./no/such/folder", "a/b/c", "not a name"])
def test_no_folder(name):
    with pytest.raises(UsageError, match="neither a folder nor a Hub id"):
        DisBackPipeline.from_pretrained(name)


def test_not_in_the_cache_and_offline():
    with pytest.raises(RunError, match="owner/missing is not a local folder .* HF_HUB_OFFLINE is set"):
        DisBackPipeline.from_pretrained("owner/missing")


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"format": 1, "conditioning_timestep": 39', "is broken"),
        ('{"format": 3, "timesteps": [399]}', "has format 3"),
        ('{"conditioning_timestep": 399}', "has format None"),
        ("[]", "has format None"),
        ('{"format": 1}', r"has timesteps \[None\]"),
        ('{"format": 1, "conditioning_timestep": "399"}', "timesteps \\['399'\\]"),
        ('{"format": 2, "timesteps": []}', r"timesteps \[\]"),
        ('{"format": 2, "timesteps": [399, 499]}', r"timesteps \[399, 499\]"),
    ],
)
def test_bad_config(lora, text, words):
    (lora / CONFIG_NAME).write_text(text)
    with pytest.raises(UsageError, match=f"{CONFIG_NAME} {words}|{words}"):
        DisBackPipeline.from_pretrained(lora)


@pytest.mark.parametrize("kind", ["lora", "unet"])
def test_base_of_another_class(epsilon, tmp_path, kind):
    base, folders = epsilon.base, epsilon.folders
    inpainting = shutil.copytree(base, tmp_path / "inpainting")
    index = json.loads((inpainting / "model_index.json").read_text())
    (inpainting / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "StableDiffusionInpaintPipeline"})
    )
    with pytest.raises(UsageError, match="is a StableDiffusionInpaintPipeline; .* base_model="):
        DisBackPipeline.from_pretrained(folders[kind], inpainting)


def test_base_that_is_no_pipeline(epsilon):
    with pytest.raises(UsageError, match="has no model_index.json; .* base_model="):
        DisBackPipeline.from_pretrained(epsilon.folders["lora"], epsilon.base / "unet")


def test_recorded_base_that_is_not_here(lora):
    write_config(lora, "lora", "/home/somebody/teacher")
    with pytest.raises(
        UsageError, match="base model of .*/lora cannot be used: /home/somebody/teacher .* base_model="
    ):
        DisBackPipeline.from_pretrained(lora)


def test_pipeline_of_another_class(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(UsageError, match="is a StableDiffusion3Pipeline; there are students of: "):
        DisBackPipeline.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def wider_base(tmp_path_factory):
    """A Stable Diffusion whose UNet has other shapes, as SD 2 has beside SD 1.5."""
    pipe = build_sd()
    config = {**pipe.unet.config, "cross_attention_dim": 48}
    pipe.unet = UNet2DConditionModel.from_config(config)
    folder = tmp_path_factory.mktemp("wider")
    pipe.save_pretrained(folder)
    return folder


def test_lora_of_other_shapes(epsilon, wider_base):
    with pytest.raises(UsageError, match="does not fit the base model .*size mismatch"):
        DisBackPipeline.from_pretrained(epsilon.folders["lora"], wider_base)


def test_unet_of_other_shapes(epsilon, wider_base):
    with pytest.raises(UsageError, match="does not fit .* cross_attention_dim 32, the base's 48"):
        DisBackPipeline.from_pretrained(epsilon.folders["unet"], wider_base)


def test_lora_with_layers_the_base_does_not_have(lora):
    from safetensors.torch import load_file, save_file

    state = load_file(lora / LORA_NAME)
    state = {key.replace("mid_block.resnets.1", "mid_block.resnets.7"): value for key, value in state.items()}
    save_file(state, lora / LORA_NAME, {"format": "pt"})
    with pytest.raises(UsageError, match=r"does not fit .*\d+ of its \d+ tensors"):
        DisBackPipeline.from_pretrained(lora)


# ---------------------------------------------------------------------------------------------------------------------
# Calling


def test_per_image_seeds(pipe):
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = pipe([PROMPT, "a dog"], generator=generators(1, 2), output_type="pt").images
    for prompt, seed, expected in ((PROMPT, 1, both[0]), ("a dog", 2, both[1])):
        alone = pipe(prompt, generator=generators(seed), output_type="pt").images[0]
        assert torch.allclose(alone, expected, atol=1e-5)
    several = pipe(PROMPT, num_images_per_prompt=2, generator=generators(1, 3), output_type="pt").images
    assert torch.allclose(several[0], both[0], atol=1e-5) and not torch.allclose(several[1], both[0], atol=1e-3)


def test_prompt_embeds_and_output_types(pipe):
    embeds = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
    tensor = pipe(prompt_embeds=embeds, latents=noise(), output_type="pt").images
    assert torch.allclose(tensor, image(pipe), atol=1e-6)
    array = pipe(PROMPT, latents=noise(), output_type="np").images
    assert np.allclose(array, tensor.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    (picture,) = pipe(PROMPT, latents=noise()).images
    assert np.abs(np.asarray(picture) / 255 - array[0]).max() < 1 / 255
    assert pipe(PROMPT, latents=noise(), output_type="latent").images.shape == (1, 4, 16, 16)
    assert torch.equal(pipe(PROMPT, latents=noise(), output_type="pt", return_dict=False)[0], tensor)


def test_size(pipe):
    assert pipe(PROMPT, 16, 48).images[0].size == (48, 16)


def test_callback(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = pipe(PROMPT, output_type="latent", callback_on_step_end=callback).images
    assert seen == [(0, TIMESTEP, ["latents"])] and not latents.any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 4},
        {"timesteps": [999]},
        {"timesteps": [399, 199]},
        {"guidance_scale": 7.5},
        {"negative_prompt": "ugly"},
        {"negative_prompt_embeds": torch.zeros(1, 77, 32)},
    ],
)
def test_what_a_one_step_student_cannot_do_is_refused(pipe, arguments):
    with pytest.raises(UsageError, match=next(iter(arguments)).removesuffix("_embeds")):
        pipe(PROMPT, **arguments)


def test_the_stock_call_is_accepted(pipe):
    assert torch.equal(image(pipe, **ONE_STEP, negative_prompt=""), image(pipe))


# ---------------------------------------------------------------------------------------------------------------------
# The pipeline as an object


def test_save_fuses_the_lora_and_leaves_the_pipeline_as_it_was(epsilon, tmp_path):
    pipe = DisBackPipeline.from_pretrained(epsilon.folders["lora"])
    pipe.set_adapters("disback", 0.5)
    before = image(pipe)
    pipe.save_pretrained(tmp_path)
    assert pipe.get_active_adapters() == ["disback"] and torch.equal(image(pipe), before)
    again = DisBackPipeline.from_pretrained(tmp_path)
    assert not getattr(again.unet, "peft_config", None)
    assert torch.allclose(image(again), before, atol=1e-4)


def test_saved_config_says_where_the_student_came_from(epsilon, tmp_path):
    DisBackPipeline.from_pretrained(epsilon.folders["lora"]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / CONFIG_NAME).read_text()) == {
        "format": 2,
        "base_model": None,  # it is a local folder
        "pipeline": "StableDiffusionPipeline",
        "student": "full",
        "timesteps": [TIMESTEP],
        "method": {"prompt_dataset": "prompts.txt"},
    }
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["scheduler"] == ["diffusers", "LCMScheduler"]


def test_made_from_parts_or_another_pipeline(tmp_path):
    stock = build_sd()
    pipe = DisBackPipeline(**stock.components, conditioning_timestep=499)
    assert type(stock.scheduler) is DDIMScheduler and pipe.conditioning_timestep == 499
    pipe.save_pretrained(tmp_path)
    for other in (
        DisBackPipeline.from_pipe(stock, conditioning_timestep=499, dtype=torch.float32),
        DisBackPipeline.from_pretrained(tmp_path),
    ):
        assert other.conditioning_timestep == 499 and torch.allclose(image(other), image(pipe), atol=1e-6)


def test_with_a_stock_scheduler_put_in_by_hand(epsilon, pipe):
    other = DisBackPipeline(**pipe.components, conditioning_timestep=TIMESTEP)
    other.scheduler = LCMScheduler.from_pretrained(epsilon.base, subfolder="scheduler")
    assert torch.allclose(image(other), image(pipe), atol=1e-5)


@pytest.mark.slow
def test_save_with_a_compiled_unet(epsilon, tmp_path):
    pipe = DisBackPipeline.from_pretrained(epsilon.folders["lora"])
    pipe.unet = torch.compile(pipe.unet)  # which takes a minute, but only when called
    pipe.save_pretrained(tmp_path)
    assert torch.allclose(image(DisBackPipeline.from_pretrained(tmp_path)), image(epsilon.pipe("lora")), atol=1e-4)


@pytest.mark.parametrize("kind, name", [("lora", LORA_NAME), ("unet", "unet/diffusion_pytorch_model.safetensors")])
def test_a_truncated_file_is_reported_as_such(epsilon, tmp_path, kind, name):
    file = shutil.copytree(epsilon.folders[kind], tmp_path / kind) / name
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UsageError, match=f"{kind}/{name.split('/')[0]}.* cannot be read .*download it again"):
        DisBackPipeline.from_pretrained(tmp_path / kind)


def test_moved_to_another_precision(epsilon):
    pipe = quiet(DisBackPipeline.from_pretrained(epsilon.folders["lora"])).to(torch.bfloat16)
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    half = pipe(PROMPT, latents=noise().to(torch.bfloat16), output_type="pt").images
    difference = half.float() - image(epsilon.pipe("lora"))
    assert 0 < difference.abs().max() < 0.05


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_image(epsilon):
    pipe = quiet(DisBackPipeline.from_pretrained(epsilon.folders["lora"]))
    pipe.unet.compile(backend="eager")  # the graph is traced as for any other backend
    assert torch.allclose(image(pipe), image(epsilon.pipe("lora")), atol=1e-5)
    assert pipe.unet._compiled_call_impl is not None
