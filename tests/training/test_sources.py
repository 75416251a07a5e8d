# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What is opened and checked before weights are loaded."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_edm import save_teacher
from tiny_models import build_sd
from tiny_students import lora_student, save_peft, save_students

from disback_diffusers.artifact.layout import write_config
from disback_diffusers.errors import UsageError
from disback_diffusers.models.families.sdxl import StableDiffusionXL
from disback_diffusers.training.command_line import parse_args
from disback_diffusers.training.path import DegradationPath
from disback_diffusers.training.reused_path import _check_classes
from disback_diffusers.training.sources import open_sources
from disback_diffusers.training.students import FullStudent, LcmLoraStudent, LoraStudent


PRESET = Path(__file__).parents[2] / "train_scripts" / "presets" / "sd15_24gb.yaml"


@pytest.fixture
def words(sd_folder, tmp_path):
    """A command line with the tiny teacher and a file of prompts."""
    (tmp_path / "p.txt").write_text("\n".join(f"a red cat {i}" for i in range(20)))
    return ["--pretrained_teacher_model", str(sd_folder), "--prompt_dataset", str(tmp_path / "p.txt")]


@pytest.mark.parametrize("preset", [[], ["--config", str(PRESET)]])
@pytest.mark.parametrize("lcm, timestep", [(False, 399), (True, 999)])
def test_the_timestep_is_that_of_the_student_s_kind(words, sd_folder, tmp_path, preset, lcm, timestep):
    if lcm:
        save_peft(tmp_path / "lcm", lora_student(sd_folder))
        words = [*words, "--lcm_lora", str(tmp_path / "lcm")]
    args = parse_args([*preset, *words])
    open_sources(args)
    assert args.student.conditioning_timestep == timestep
    assert (args.objective.guidance_scale, args.objective.guidance_max_timestep) == (2.0, 600)
    args = parse_args([*preset, *words, "--conditioning_timestep", "699"])
    open_sources(args)
    assert args.student.conditioning_timestep == 699


def test_the_file_of_a_student_of_ours_is_no_lcm_lora(make_args, sd_folder, tmp_path):
    """Neither its folder nor the file in it, though their layout is the same."""
    file = save_peft(tmp_path / "student", lora_student(sd_folder))
    write_config(file.parent, {"timesteps": [399], "method": {}})
    for source in (file.parent, file):
        with pytest.raises(UsageError, match=f"^--lcm_lora {source} is a student of DisBack"):
            open_sources(make_args(lcm_lora=str(source)))


def test_an_lcm_lora_that_starts_below_the_later_steps_is_refused(make_args, sd_folder, tmp_path):
    settings = {"lcm_lora": save_peft(tmp_path / "lcm", lora_student(sd_folder)), "conditioning_timestep": 499}
    with pytest.raises(UsageError, match="^--conditioning_timestep 499 is too early for an LCM in 2 or more steps"):
        open_sources(make_args(**settings))
    family = open_sources(make_args(**settings, proportion_later_steps=0.0)).family
    settings["conditioning_timestep"] = 600
    sampler = open_sources(make_args(**settings)).student.sampler(family)
    assert sampler.timesteps == [600, 499], "no number of steps uses those below"


def test_a_student_is_of_the_kind_that_was_asked_for(make_args, sd_folder, small_unet, tmp_path):
    save_peft(tmp_path / "lcm", lora_student(sd_folder))
    other = {"student": "full", "student_unet": str(small_unet)}
    kinds = [({}, LoraStudent), ({"student": "full"}, FullStudent), (other, FullStudent)]
    for settings, kind in [*kinds, ({"lcm_lora": str(tmp_path / "lcm")}, LcmLoraStudent)]:
        assert type(open_sources(make_args(**settings)).student) is kind


def test_prompts_are_shown_as_given_or_spread_over_the_data(words, tmp_path):
    def shown(*more):
        return open_sources(parse_args([*words, *more])).shown

    assert shown() == [f"a red cat {i}" for i in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert shown("--validation_prompts", "a dog", "a cat") == ["a dog", "a cat"]
    (tmp_path / "shown.txt").write_text("a bird\na fish\n")
    assert shown("--validation_prompts", str(tmp_path / "shown.txt")) == ["a bird", "a fish"]


def test_classes_are_shown_as_given_or_spread_over_those_of_the_run(make_args, tmp_path):
    files = {"pretrained_teacher_model": save_teacher(tmp_path, classes=20, empty=20), "prompt_dataset": None}
    files |= {"resolution": [], "class_labels": "0-9,12"}
    assert open_sources(make_args(**files)).shown == ["0", "1", "2", "4", "5", "6", "8", "9"]
    assert open_sources(make_args(**files, validation_prompts=["12", "3"])).shown == ["12", "3"]
    with pytest.raises(UsageError, match="^--validation_prompts 11: give classes of this run, 0-9,12.$"):
        open_sources(make_args(**files, validation_prompts=["12", "11"]))


def test_prompts_longer_than_what_is_read_are_counted(make_args, tmp_path):
    (tmp_path / "long.txt").write_text("a cat\n" + "red " * 90 + "\na dog\n")
    assert open_sources(make_args(prompt_dataset=str(tmp_path / "long.txt"))).long_prompts == 1


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"pretrained_teacher_model": "no/such/folder"}, "--pretrained_teacher_model no/such/folder "),
        ({"teacher_revision": "main"}, "--teacher_revision is for a teacher on the Hub"),
        ({"prompt_dataset": None}, "--prompt_dataset is required"),
        ({"prompt_dataset": "no.txt"}, "no.txt"),
        ({"conditioning_timestep": 1000}, "--conditioning_timestep 1000 is outside"),
        ({"resolution": ["15"]}, "--resolution 15 must be a multiple"),
        ({"validation_scheduler": "NoSuchScheduler"}, "--validation_scheduler NoSuchScheduler cannot"),
        ({"validation_inference_steps": 1001}, "--validation_inference_steps 1001 is more than the 1000 timesteps"),
        ({"student": "full", "student_unet": "no/such/unet"}, "--student_unet no/such/unet"),
        ({"lcm_lora": "./no-such-lora"}, "--lcm_lora ./no-such-lora is no LoRA"),
        ({"log_fd_every": 1, "fd_reference": "no.safetensors"}, "--fd_reference no.safetensors"),
        ({"degradation_path": "no-such-path"}, "--degradation_path no-such-path"),
    ],
)
def test_what_cannot_be_opened_is_named_by_its_flag(make_args, settings, expected):
    with pytest.raises(UsageError, match=f"^{expected}" if expected.startswith("--") else expected):
        open_sources(make_args(**settings))


NEEDS_A_PACKAGE = pytest.param(
    "DPMSolverSDEScheduler", marks=pytest.mark.skipif(bool(find_spec("torchsde")), reason="torchsde is installed")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NEEDS_A_PACKAGE, "EDMEulerScheduler"])
def test_a_scheduler_that_would_fail_at_the_first_samples_is_refused(make_args, name):
    """One needs a package that is not there, the other has noise levels of another kind."""
    with pytest.raises(UsageError, match=f"--validation_scheduler {name}"):
        open_sources(make_args(validation_scheduler=name))


@pytest.mark.parametrize(
    "steps, scheduler", [(1001, None), (1000, None), (1000, "PNDMScheduler"), (2, "PNDMScheduler")]
)
def test_a_number_of_steps_that_would_fail_at_the_first_samples_is_refused(make_args, steps, scheduler):
    with pytest.raises(UsageError, match=f"--validation_inference_steps {steps}[ :]"):
        open_sources(make_args(validation_inference_steps=steps, validation_scheduler=scheduler))


@pytest.mark.slow
def test_a_scheduler_that_cannot_take_the_teachers_predictions_is_refused(make_args, tmp_path):
    build_sd(prediction_type="sample").save_pretrained(tmp_path / "x0")
    x0 = {"pretrained_teacher_model": str(tmp_path / "x0")}
    open_sources(make_args(**x0, validation_scheduler="DDPMScheduler"))
    with pytest.raises(UsageError, match="--validation_scheduler KDPM2DiscreteScheduler cannot") as error:
        open_sources(make_args(**x0, validation_scheduler="KDPM2DiscreteScheduler"))
    offered = str(error.value).partition("take one of")[2]
    assert "DDPMScheduler" in offered and "KDPM2DiscreteScheduler" not in offered


def test_a_teacher_of_another_family_is_refused(make_args, sdxl_folder):
    with pytest.raises(
        UsageError, match="is a StableDiffusionPipeline: take a StableDiffusionXLPipeline, or another script"
    ):
        open_sources(make_args(), [StableDiffusionXL])
    family = open_sources(make_args(pretrained_teacher_model=str(sdxl_folder)), [StableDiffusionXL]).family
    assert type(family) is StableDiffusionXL


def test_a_student_of_ours_is_no_lcm_lora(make_args, sd_folder, tmp_path):
    folders, _ = save_students(sd_folder, tmp_path / "students")
    with pytest.raises(UsageError, match="--lcm_lora .* did not start as an LCM-LoRA"):
        open_sources(make_args(lcm_lora=str(folders["lora"])))
    (folders["lora"] / "disback_config.json").unlink()
    assert type(open_sources(make_args(lcm_lora=str(folders["lora"]))).student) is LcmLoraStudent


# ---------------------------------------------------------------------------------------------------------------------
# A given path


@pytest.fixture
def given_path(make_context, tmp_path):
    """A function from changes of a recorded path to its folder."""
    context = make_context()
    path = DegradationPath(tmp_path / "recorded", context.roles.fingerprint, {"conditioning_timestep": 399})
    path.start()
    for step in (2, 4, 8):
        path.add(context.roles, step)

    def change(complete=True, **settings):
        folder = tmp_path / "given"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "recorded", folder)
        changed = DegradationPath.load(folder)
        changed.complete, changed.settings = complete, {**changed.settings, **settings}
        changed.write_manifest()
        return str(folder)

    return change


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"complete": False}, "was not recorded to its end"),
        ({"conditioning_timestep": 599}, "--conditioning_timestep 599, and this run has 399: set 599"),
        ({"lcm_lora": "l"}, "--lcm_lora is not the same"),
        ({"lora_rank": 3}, "has adapters of --lora_rank 3, here it is 4: set the same"),
        ({"lora_target_modules": ["to_q"]}, "has adapters of --lora_target_modules .*'to_q'.*, here it is"),
        ({"student_unet": "fingerprint"}, "--student_unet is not the same"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(make_args, given_path, changes, expected):
    with pytest.raises(UsageError, match=f"--degradation_path .*{expected}"):
        open_sources(make_args(degradation_path=given_path(**changes)))


@pytest.mark.parametrize("recorded", [None, "all", "0-9", "0-2,9"])
def test_a_path_serves_the_classes_it_was_recorded_for(recorded):
    _check_classes("given", recorded, "0-2,9")
    with pytest.raises(UsageError, match="was recorded for the classes 0-2,7, and --class_labels 0-2,9 has others"):
        _check_classes("given", "0-2,7", "0-2,9")


def test_a_distance_needs_two_prompts(make_args, tmp_path):
    (tmp_path / "one.txt").write_text("a cat\n")
    args = make_args(prompt_dataset=str(tmp_path / "one.txt"), log_fd_every=1, fd_reference="embedded")
    with pytest.raises(UsageError, match="--log_fd_every needs at least 2 training prompts"):
        open_sources(args)


def test_a_path_has_to_leave_updates_for_the_teacher(make_args, given_path):
    """Its own nodes count, and not --degradation_nodes; where it is not walked, none."""
    settings = {"degradation_path": given_path(), "degradation_nodes": 1, "steps_per_node": 2}
    assert len(open_sources(make_args(max_train_steps=5, **settings)).path) == 4
    with pytest.raises(UsageError, match="the path takes 2 x 2 updates"):
        open_sources(make_args(max_train_steps=4, **settings))
    open_sources(make_args(max_train_steps=4, node_switching="adaptive", **settings))
