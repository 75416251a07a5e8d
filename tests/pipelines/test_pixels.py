# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Students of pixel-space teachers: the images they were trained to make, in our pipelines and in plain diffusers."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ConsistencyModelPipeline, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils import recurse_remove_peft_layers
from safetensors.torch import load_file, save_file
from tiny_edm import save_teacher

from disback_diffusers import DisBackPipeline, UsageError
from disback_diffusers.artifact.layout import write_config
from disback_diffusers.artifact.save import save_lora, save_network
from disback_diffusers.errors import NotFiniteError
from disback_diffusers.files import CONFIG_NAME
from disback_diffusers.models.conditions import Conditions
from disback_diffusers.models.denoiser import Denoiser
from disback_diffusers.models.families import open_teacher
from disback_diffusers.models.lora_targets import ALL_TARGETS, present_targets
from disback_diffusers.models.roles import Roles
from disback_diffusers.models.samplers import OneStep
from disback_diffusers.pipelines import DisBackDDPMPipeline, DisBackEDMPipeline


Z = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
TEACHERS = {
    "edm": ({"kind": "edm"}, 80.0),
    "edm at a low noise level": ({"kind": "edm", "classes": 4}, 2.5),
    "consistency model": ({"kind": "cm", "classes": 4}, 80.0),
    "ddpm++": ({"kind": "ours"}, 80.0),
    "ddpm++ of classes": ({"kind": "ours", "classes": 4, "empty": 4}, 2.5),
    "ddpm": ({"kind": "ddpm"}, 399),
    "ddpm of classes": ({"kind": "ddpm", "classes": 4}, 700),
}


class Students:
    """Students of one teacher, all with the same random weights, and the images that they were trained to make."""

    def __init__(self, teacher, start, folder, base=None):
        self.base, self.start = str(base or save_teacher(folder / "teacher", **teacher)), start
        family = open_teacher(self.base)
        self.classes, self.has_levels = family.classes, family.schedule.num_train_timesteps is None
        self.interface = family.interface
        roles = Roles(family.load_network())
        roles.add("student", 2, 4, present_targets(roles.network, ALL_TARGETS))
        roles.randomize("student", seed=1)
        self.folders = {kind: folder / kind for kind in ("lora", "unet", "full")}
        save_lora(self.folders["lora"], roles.state_dict("student"), roles.lora_config("student"))
        roles.use("student")
        self.images, self.labels = self._trained(family, roles), [1, 3, 0] if family.classes else None
        merged = copy.deepcopy(roles.network)
        for layer in merged.modules():
            if hasattr(layer, "lora_A"):
                layer.merge()
        recurse_remove_peft_layers(merged)
        del merged.peft_config
        save_network(self.folders["unet"], merged)
        for kind in ("lora", "unet"):
            self.write_config(kind)
        DisBackPipeline.from_pretrained(self.folders["lora"]).save_pretrained(self.folders["full"])

    def _trained(self, family, roles):
        labels = {"labels": torch.tensor([1, 3, 0])} if family.classes else {}
        sampler = OneStep(self.start)
        with torch.no_grad():
            denoiser = Denoiser(family, roles.network, family.schedule, roles, "student")
            return family.decode(sampler.sample(denoiser, Z, Conditions(labels, rows=3)))

    def write_config(self, kind, **more):
        config = {"base_model": self.base, "student": "lora" if kind == "lora" else "full"}
        config["base_interface"] = self.interface
        config |= {"sigmas": [self.start]} if self.has_levels else {"timesteps": [self.start]}
        write_config(self.folders[kind], {**config, **({"class_labels": "0-3"} if self.classes else {}), **more})


@pytest.fixture(scope="module", params=[
    *(pytest.param(name, marks=[] if name == "edm at a low noise level" else pytest.mark.slow) for name in TEACHERS)
])  # fmt: skip
def students(request, tmp_path_factory):
    return Students(*TEACHERS[request.param], tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    return Students(*TEACHERS["consistency model"], tmp_path_factory.mktemp("classes"))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------------------------------------------------------------
# The image


@pytest.mark.parametrize("kind", ["lora", "unet", "full"])
def test_the_image_is_the_one_that_was_trained(students, kind):
    pipe = DisBackPipeline.from_pretrained(students.folders[kind])
    assert type(pipe) is (DisBackEDMPipeline if students.has_levels else DisBackDDPMPipeline)
    images = pipe(class_labels=students.labels, latents=Z, output_type="pt").images
    torch.testing.assert_close(images, students.images, atol=2e-5, rtol=0)


def test_plain_diffusers_makes_the_same_image_of_the_same_seed(students):
    plain = quiet(DiffusionPipeline.from_pretrained(students.folders["full"]))
    assert type(plain) is (ConsistencyModelPipeline if students.has_levels else DDPMPipeline)
    if students.classes and not students.has_levels:
        return  # a DDPMPipeline has no labels
    labels = {"class_labels": students.labels} if students.labels else {}
    seeded = {"batch_size": 3, "num_inference_steps": 1, "generator": torch.Generator().manual_seed(2)}
    expected = torch.as_tensor(plain(**labels, **seeded, output_type="np").images)
    ours = DisBackPipeline.from_pretrained(students.folders["lora"])
    found = ours(**labels, batch_size=3, generator=torch.Generator().manual_seed(2), output_type="np").images
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=2e-5, rtol=0)


def test_a_saved_student_is_loaded_and_saved_again(students, tmp_path):
    pipe = DisBackPipeline.from_pretrained(students.folders["full"])
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert config["student"] == "full" and config.get("class_labels") == ("0-3" if students.classes else None)
    assert config["sigmas" if students.has_levels else "timesteps"] == [students.start]
    again = DisBackPipeline.from_pretrained(tmp_path)
    images = again(class_labels=students.labels, latents=Z, output_type="pt").images
    torch.testing.assert_close(images, students.images, atol=2e-5, rtol=0)


def test_two_steps_of_plain_diffusers_change_nothing(of_classes):
    plain = quiet(DiffusionPipeline.from_pretrained(of_classes.folders["full"]))
    images = [
        plain(3, [0, 1, 2], n, generator=torch.Generator().manual_seed(0), output_type="np").images for n in (1, 2)
    ]
    torch.testing.assert_close(*map(torch.as_tensor, images), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Calls


def test_one_call_makes_one_evaluation(of_classes):
    pipe, calls = DisBackPipeline.from_pretrained(of_classes.folders["lora"]), []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    assert len(pipe(batch_size=4, class_labels=[0, 1, 2, 3]).images) == 4 and calls == [1]
    assert pipe(batch_size=2, class_labels=3).images[0].size == (8, 8)
    for labels in (torch.tensor([1, 2]), np.array([1, 2]), range(1, 3), (1, 2)):
        assert pipe(class_labels=labels, output_type="np").images.shape == (2, 8, 8, 3)
    assert pipe(2, 1, output_type="latent", return_dict=False)[0].shape == (2, 3, 8, 8)


def test_an_image_depends_on_its_own_generator(of_classes):
    pipe = DisBackPipeline.from_pretrained(of_classes.folders["lora"])

    def images(seeds, **kwargs):
        return pipe(generator=[torch.Generator().manual_seed(s) for s in seeds], output_type="pt", **kwargs).images

    both = images([3, 4], batch_size=2)  # of random classes
    torch.testing.assert_close(images([4], batch_size=1)[0], both[1], atol=1e-5, rtol=0)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_random_classes_are_those_it_was_trained_for(of_classes):
    of_classes.write_config("lora", class_labels="1-2")
    try:
        pipe, seen = DisBackPipeline.from_pretrained(of_classes.folders["lora"]), []
    finally:
        of_classes.write_config("lora")
    hook = {"with_kwargs": True}
    pipe.unet.register_forward_pre_hook(lambda _, args, given: seen.extend(given["class_labels"].tolist()), **hook)
    pipe(batch_size=40, generator=torch.Generator().manual_seed(0))
    assert set(seen) == {1, 2} == set(pipe.class_labels)
    with pytest.raises(UsageError, match="class_labels: 3 is not one of the student's classes, 1-2"):
        pipe(class_labels=[1, 3])


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"batch_size": 2, "class_labels": [1, 2, 3]}, "3 labels were given for batch_size=2"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"batch_size": "a cat"}, "batch_size='a cat': this student takes no prompt"),
        ({"class_labels": [4]}, "class_labels: 4 is not one of the student's classes, 0-3"),
        ({"class_labels": "cat"}, "class_labels='cat' must be a class"),
        ({"class_labels": []}, "must be a class, or a list of at least one"),
        ({"class_labels": [1.5]}, "class_labels: 1.5 is not one"),
        ({"num_inference_steps": 2}, "num_inference_steps=2: the student was trained for 1 step"),
        ({"output_type": "jpg"}, "output_type='jpg' must be one of"),
        ({"generator": 3}, "generator=3 is no torch.Generator"),
        ({"batch_size": 2, "generator": [torch.Generator()]}, "1 were given for 2 images"),
        ({"latents": torch.zeros(1, 3, 16, 16)}, "must be .1, 3, 8, 8."),
        ({"latents": torch.zeros(0, 3, 8, 8)}, "batch_size=None must be a whole number|latents has shape"),
        ({"batch_size": 3, "class_labels": range(1)}, "1 labels were given for batch_size=3"),
        ({"class_labels": bytes(2)}, "must be a class"),
        ({"latents": torch.full((1, 3, 8, 8), torch.nan)}, "latents must be finite"),
    ],
)
def test_what_cannot_be_called(of_classes, given, expected):
    with pytest.raises(UsageError, match=expected):
        DisBackPipeline.from_pretrained(of_classes.folders["full"])(**given)


def test_labels_of_an_unconditional_student(tmp_path):
    students = Students(*TEACHERS["edm"], tmp_path)
    with pytest.raises(UsageError, match="class_labels: this student is unconditional"):
        DisBackPipeline.from_pretrained(students.folders["full"])(class_labels=[1])


def test_an_image_that_is_not_finite(of_classes):
    pipe = DisBackPipeline.from_pretrained(of_classes.folders["full"])
    pipe.unet.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(NotFiniteError, match="2 of 2 images"):
        pipe(batch_size=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(students, dtype):
    pipe = DisBackPipeline.from_pretrained(students.folders["lora"], dtype=dtype)
    images = pipe(class_labels=students.labels, latents=Z, output_type="np").images
    assert (
        pipe.unet.dtype == dtype and abs(torch.as_tensor(images).permute(0, 3, 1, 2) - students.images).mean() < 0.02
    )


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def test_a_teacher_opened_as_a_student_is_warned_about(tmp_path, warned):
    save_teacher(tmp_path)
    pipe = DisBackPipeline.from_pretrained(tmp_path)
    assert pipe.conditioning_sigma == 80.0 and "at which noise level the student was trained" in warned()[0]


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"conditioning_timestep": 399}, "conditioning_timestep: .* is a student of noise levels"),
        ({"conditioning_sigma": 90.0}, "conditioning_sigma=90.0 must be a noise level of the base model, 0.002 to 80"),
        ({"conditioning_sigma": "80"}, "conditioning_sigma='80' must be"),
        ({"unet": None}, "unet=None: a pipeline on pixels has nothing else"),
    ],
)
def test_what_cannot_be_loaded(of_classes, given, expected):
    with pytest.raises(UsageError, match=expected):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"], **given)


def test_another_start_than_the_recorded_one(of_classes):
    pipe = DisBackPipeline.from_pretrained(of_classes.folders["lora"], conditioning_sigma=20.0)
    assert pipe.conditioning_sigma == 20.0 and pipe.scheduler.init_noise_sigma == 20.0
    with pytest.raises(UsageError, match="this pipeline was saved for noise level 80"):
        DisBackPipeline.from_pretrained(of_classes.folders["full"], conditioning_sigma=20.0)


def test_a_base_of_another_kind(of_classes, tmp_path):
    ddpm = save_teacher(tmp_path / "ddpm", "ddpm", classes=4)
    with pytest.raises(UsageError, match="does not fit its base model, which has timesteps"):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"], base_model=ddpm)
    other = save_teacher(tmp_path / "other", "ours", classes=4)
    with pytest.raises(UsageError, match="pytorch_lora_weights.safetensors .*does not fit the base model|does not"):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"], base_model=other)
    unconditional = save_teacher(tmp_path / "unconditional")
    with pytest.raises(UsageError, match="its UNet has num_class_embeds 4, the base's None"):
        DisBackPipeline.from_pretrained(of_classes.folders["unet"], base_model=unconditional)


def test_weights_that_are_missing(of_classes, tmp_path):
    """diffusers leaves them without values, and only warns."""
    for kind in ("unet", "full"):
        folder = Path(shutil.copytree(of_classes.folders[kind], tmp_path / kind))
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        del state["conv_in.bias"]
        save_file(state, file, {"format": "pt"})
        with pytest.raises(UsageError, match="lacks conv_in.bias"):
            DisBackPipeline.from_pretrained(folder)
    base = shutil.copytree(of_classes.base, tmp_path / "base")
    shutil.copy(file, base / "unet")
    with pytest.raises(UsageError, match="lacks conv_in.bias"):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"], base_model=base)


def test_a_lora_of_classes_on_an_unconditional_base(of_classes, tmp_path):
    with pytest.raises(UsageError, match="the student is class-conditional, and its base model is unconditional"):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"], base_model=save_teacher(tmp_path, "cm"))


def test_an_unconditional_lora_on_a_base_of_classes(of_classes, tmp_path):
    folder = Path(shutil.copytree(of_classes.folders["lora"], tmp_path / "lora"))
    config = json.loads((folder / "disback_config.json").read_text())
    del config["class_labels"]
    (folder / "disback_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="the student is unconditional, and its base model is class-conditional"):
        DisBackPipeline.from_pretrained(folder)


@pytest.mark.parametrize("prompt", ["a cat", ["a cat", "a dog"]])
def test_a_prompt_is_refused(of_classes, prompt):
    with pytest.raises(UsageError, match="this student takes no prompt"):
        DisBackPipeline.from_pretrained(of_classes.folders["lora"])(prompt)


@pytest.mark.parametrize("clip", [{"thresholding": True, "sample_max_value": 5.0}, {"clip_sample_range": 0.5}])
def test_what_the_teachers_sampler_clips_is_not_clipped(tmp_path, clip):
    """Training does not."""
    save_teacher(tmp_path / "teacher", "ddpm")
    file = tmp_path / "teacher" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **clip}))
    (tmp_path / "students").mkdir()
    students = Students({"kind": "ddpm"}, 700, tmp_path / "students", tmp_path / "teacher")
    for kind in ("lora", "full"):
        pipe = DisBackPipeline.from_pretrained(students.folders[kind])
        images = pipe(latents=Z, output_type="pt").images
        torch.testing.assert_close(images, students.images, atol=2e-5, rtol=0)
        assert pipe(latents=100 * Z, output_type="latent").images.abs().max() > 1


# ---------------------------------------------------------------------------------------------------------------------
# Parts that are replaced


def test_another_network_or_scheduler_is_refused(tmp_path):
    students = Students(*TEACHERS["edm"], tmp_path)
    pipe = DisBackPipeline.from_pretrained(students.folders["lora"])
    adapted, raw = pipe.unet, UNet2DModel.from_pretrained(students.folders["unet"], subfolder="unet")
    with pytest.raises(UsageError, match="it was made a student's of noise level 80 before; load it anew"):
        DisBackPipeline.from_pretrained(students.folders["lora"], unet=adapted, conditioning_sigma=2.0)
    again = DisBackPipeline.from_pretrained(students.folders["lora"], unet=adapted)  # and not adapted twice
    torch.testing.assert_close(again(latents=Z, output_type="pt").images, students.images, atol=2e-5, rtol=0)
    for network in (raw, None):
        pipe.unet = network
        with pytest.raises(UsageError, match="pipe.unet was replaced"):
            pipe()
    again.scheduler = DDPMScheduler()
    with pytest.raises(UsageError, match="pipe.scheduler belongs to the student"):
        again()


def test_from_pipe(students):
    ours = DisBackPipeline.from_pretrained(students.folders["lora"])
    plain = DiffusionPipeline.from_pretrained(students.folders["full"])
    for pipe in (ours, plain):
        new = DisBackPipeline.from_pipe(pipe)
        assert type(new) is type(ours) and new._times([1]) == ours._times([1])
        images = new(class_labels=students.labels, latents=Z, output_type="pt").images
        torch.testing.assert_close(images, students.images, atol=2e-5, rtol=0)


def test_the_index_names_the_package_that_has_our_network(tmp_path):
    """Importing that is enough for plain diffusers to load it."""
    students = Students(*TEACHERS["ddpm++"], tmp_path)
    index = json.loads((students.folders["full"] / "model_index.json").read_text())
    assert index["unet"] == ["disback_diffusers", "EDMUNet2DModel"]


@pytest.mark.parametrize("change", [{"class_labels": [0, 1]}, {"class_labels": "all"}, {"sigmas": [True]}])
def test_a_configuration_that_was_edited(of_classes, change, tmp_path):
    folder = Path(shutil.copytree(of_classes.folders["lora"], tmp_path / "lora"))
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "sigmas": [80]}))
    assert DisBackPipeline.from_pretrained(folder).conditioning_sigma == 80.0  # a whole number is one too
    (folder / CONFIG_NAME).write_text(json.dumps({**config, **change}))
    with pytest.raises(UsageError, match=f"has {next(iter(change))}"):
        DisBackPipeline.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["lora", "unet"])
@pytest.mark.parametrize(
    "change, expected",
    [
        ({"sigma_data": 1.0}, "the student has sigma_data 0.5, and its base model 1.0: pass the one it was distilled"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "network_times edm, and its base model consistency model"),
    ],
)
def test_a_base_of_another_noise_scaling(tmp_path, kind, change, expected):
    students = Students({"kind": "edm"}, 80.0, tmp_path)
    other = Path(shutil.copytree(students.base, tmp_path / "other"))
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    index = other / "model_index.json"
    name = change.get("_class_name", "EDMEulerScheduler")
    index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", name]}))
    with pytest.raises(UsageError, match=expected):
        DisBackPipeline.from_pretrained(students.folders[kind], base_model=other)


def test_a_lora_on_a_base_of_other_images(tmp_path):
    students = Students({"kind": "edm"}, 80.0, tmp_path)
    unet = UNet2DModel.from_pretrained(students.base, subfolder="unet")
    config = {**unet.config, "sample_size": 16}
    UNet2DModel.from_config(config).save_pretrained(Path(students.base) / "unet")
    with pytest.raises(UsageError, match=r"image_shape \[3, 8, 8\], and its base model \[3, 16, 16\]: pass the one"):
        DisBackPipeline.from_pretrained(students.folders["lora"])
