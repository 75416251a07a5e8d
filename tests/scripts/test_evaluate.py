# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""evaluate_disback.py: generates what is missing, and nothing twice; measures; says in one line what is wrong."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from script_runs import SCRIPTS, Trap, pair_environments, start
from tiny_students import save_students
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from disback_diffusers.evaluation.judge import Judge
from disback_diffusers.files import LORA_NAME
from disback_diffusers.models.embedded import JUDGE


SCRIPT = SCRIPTS / "evaluate_disback.py"
REFERENCE = "--reference real --feature_extractor embedded".split()
STUDENT = ["student", "--prompts", "prompts.txt", "--batch_size", "2"]
ORDER = [f"{i:06d}.png" for i in range(5)]


@pytest.fixture(scope="module")
def student(sd_folder, tmp_path_factory):
    """The folder of a LoRA student; read only."""
    folders, _ = save_students(sd_folder, tmp_path_factory.mktemp("students"))
    return folders["lora"]


@pytest.fixture
def folder(files, student):
    """Beside prompts.txt and ./teacher: a LoRA ./student, and ./real, eight random images."""
    shutil.copytree(student, files / "student")
    (files / "real").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 40, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(files / "real" / f"{i}.png")
    return files


def finish(*words, **environment):
    run = start(words, script=SCRIPT, **environment)
    assert run.wait() == 0, run.output
    return run.output


def refuses(*words, expected):
    run = start(words, script=SCRIPT)
    assert run.wait() == 2, run.output
    assert len(run.messages) == 1 and "Traceback" not in run.output, run.output
    assert [part for part in expected if part not in run.messages[0]] == [], run.messages


def results(folder):
    found = json.loads((folder / "results.json").read_text())["results"]
    return {name: value for name, value in found.items() if name not in ("seconds an image", "device")}


def pixels(folder):
    return [np.array(Image.open(file)) for file in sorted((folder / "images").glob("0*.png"))]


# ---------------------------------------------------------------------------------------------------------------------
# Generating


def test_a_killed_run_goes_on_and_generates_nothing_twice(folder):
    finish(*STUDENT, *REFERENCE, "--output_dir", "whole")
    assert [file.name for file in sorted((folder / "whole/images").iterdir())] == ORDER

    run = start([*STUDENT, *REFERENCE], Trap("os.rename", "images/000003.png"), script=SCRIPT)
    assert run.wait() == -signal.SIGKILL, run.output
    kept = {file: file.stat().st_mtime_ns for file in (folder / "evaluation/images").glob("0*.png")}
    assert len(kept) == 3
    finish(*STUDENT, *REFERENCE)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    for ours, theirs in zip(pixels(folder / "evaluation"), pixels(folder / "whole"), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1  # batches of other sizes are added up in another order
    ours, theirs = results(folder / "evaluation"), results(folder / "whole")
    assert ours["images"] == theirs["images"] == 5 and ours["FD"] == pytest.approx(theirs["FD"], rel=1e-2)


def test_two_processes_share_the_work(folder):
    finish(*STUDENT, *REFERENCE, "--output_dir", "alone")
    words = [*STUDENT, *REFERENCE, "--output_dir", "pair"]
    pair = [start(words, script=SCRIPT, **environment) for environment in pair_environments()]
    assert [run.wait() for run in pair] == [0, 0], pair[0].output
    assert "FD " in pair[0].output and "FD " not in pair[1].output
    for ours, theirs in zip(pixels(folder / "pair"), pixels(folder / "alone"), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_images_of_other_settings_are_not_mixed(folder):
    finish(*STUDENT, *REFERENCE)
    refuses(*STUDENT, *REFERENCE, "--seed", "1", expected=["--output_dir evaluation", "seed was 0, now it is 1"])
    refuses(*STUDENT, *REFERENCE, "--num_images", "2", expected=["--output_dir evaluation"])
    file = folder / "student" / LORA_NAME
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] += 1  # trained on
    save_file(tensors, file, {"format": "pt"})
    refuses(*STUDENT, *REFERENCE, expected=["--output_dir evaluation", "weights"])
    (folder / "evaluation/settings.json").unlink()
    refuses(*STUDENT, *REFERENCE, expected=["--output_dir evaluation", "no settings.json"])


def test_a_pipeline_takes_steps_and_guidance_and_a_student_does_not(folder):
    words = ["teacher", "--prompts", "prompts.txt", *REFERENCE, "--num_inference_steps", "2"]
    finish(*words, "--output_dir", "plain")
    finish(*words, "--guidance_scale", "1", "--output_dir", "unguided")
    assert any((a != b).any() for a, b in zip(pixels(folder / "plain"), pixels(folder / "unguided"), strict=True))
    settings = json.loads((folder / "unguided/settings.json").read_text())
    assert (settings["num_inference_steps"], settings["guidance_scale"], settings["num_images"]) == (2, 1.0, 5)
    for output in ("new", "plain"):  # and not of the other images in the folder
        words = [*STUDENT, *REFERENCE, "--num_inference_steps", "2", "--output_dir", output]
        refuses(*words, expected=["--num_inference_steps 2: this student was trained for 1"])


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--num_inference_steps", "0"], "must be a whole number greater than 0, not 0"),
        (["--num_inference_steps", "1001"], "--num_inference_steps 1001 is more than the 1000 timesteps"),
        (["--guidance_scale", "inf"], "must be a number of at least 0, not inf"),
        (["--resolution", "30x64"], "must be multiples of 8, such as 1024 or 832x1216, not 30x64"),
        (["--seed", "-1"], "must be a whole number from 0 to 2^48 - 1, not -1"),
    ],
)
def test_impossible_numbers_have_one_clear_line(folder, words, expected):
    refuses("teacher", "--prompts", "prompts.txt", *REFERENCE, *words, "--output_dir", "new", expected=[expected])


@pytest.mark.parametrize("format", [1, 2])
def test_an_lcm_student_in_the_steps_it_was_trained_for(folder, format):
    """Only the configuration says that it is one."""
    old = {"format": 1, "conditioning_timestep": 999, "method": {"proportion_later_steps": 0.25}}
    new = {"format": 2, "timesteps": [999, 879, 759, 639, 499, 379, 259, 139]}
    file = folder / "student/disback_config.json"
    config = json.loads(file.read_text())
    config.pop("timesteps")
    file.write_text(json.dumps({**config, **(old if format == 1 else new)}))
    words = [*STUDENT, *REFERENCE, "--num_inference_steps"]
    finish(*words, "4")
    refuses(*words, "3", "--output_dir", "three", expected=["--num_inference_steps 3", "1 or 2 or 4 or 8"])


@pytest.mark.parametrize("flag", ["--resolution 33", "--seed -1", "--guidance_scale nan", "--guidance_scale -5"])
def test_values_that_cannot_work(folder, flag):
    run = start([*STUDENT, *REFERENCE, *flag.split()], script=SCRIPT)
    assert run.wait() == 2 and flag.split()[0] in run.output and "Traceback" not in run.output


def test_a_variant_that_is_not_there(folder):
    refuses(*STUDENT, *REFERENCE, "--variant", "fp16", expected=["has no weights of variant fp16: leave it out"])


def test_another_size(folder):
    for _ in range(2):  # the second finds its images and takes them
        finish(*STUDENT, *REFERENCE, "--resolution", "48x32")
    assert {image.shape for image in pixels(folder / "evaluation")} == {(32, 48, 3)}


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def test_a_folder_of_images_and_saved_statistics(folder):
    printed = finish("real", *REFERENCE, "--save_reference", "real.safetensors", "--output_dir", "self")
    own = results(folder / "self")
    assert own["FD"] == pytest.approx(0, abs=1e-4) and own["images"] == own["real images"] == 8
    assert own["precision"] == own["recall"] == own["coverage"] == 1 and own["evaluated at"] == 32
    assert "**FD" in printed and "no more images than features" in printed
    with Image.open(folder / "self/samples.png") as sheet:
        assert sheet.width == 8 * 96

    finish(*STUDENT, *REFERENCE, "--output_dir", "by_folder")
    finish(*STUDENT, "--reference", "real.safetensors", "--output_dir", "by_file")
    assert results(folder / "by_file")["FD"] == pytest.approx(results(folder / "by_folder")["FD"], rel=1e-6)
    finish("by_file", *REFERENCE, "--output_dir", "again")  # what was generated can be measured as a folder
    assert results(folder / "again") == results(folder / "by_folder")


def test_the_embedded_reference_and_retrieval(folder):
    prompts = "red apple,cat face,panda,rocket,pizza,crown,guitar,bicycle,rainbow,key,anchor,bell".split(",")
    (folder / "emoji.txt").write_text("\n".join(prompts))
    words = ["embedded", "--num_inference_steps", "2", "--guidance_scale", "2", "--prompts", "emoji.txt"]
    finish(*words, "--reference", "embedded")
    found, judge = results(folder / "evaluation"), Judge()
    images = torch.from_numpy(np.stack(pixels(folder / "evaluation"))).permute(0, 3, 1, 2) / 255
    features = judge.image_features(images)
    assert found["FD"] == pytest.approx(judge.frechet_distance(features), rel=1e-6)
    assert found["top-10 retrieval"] == judge.retrieval(features, judge.text_features(prompts))


def test_the_clip_score_is_that_of_the_model(folder):
    tokenizer = CLIPTokenizer.from_pretrained(JUDGE)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": 1}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(2)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = CLIPProcessor(images, tokenizer)
    for part in (model, processor):
        part.save_pretrained(folder / "clip")

    words = ["--clip_model", "./clip", "--prompts", "prompts.txt"]
    finish("real", *words, "--num_images", "5")
    prompts = (folder / "prompts.txt").read_text().splitlines()
    cosines = []
    for i, prompt in enumerate(prompts):  # one by one: no padding
        inputs = processor(text=[prompt], images=Image.open(folder / f"real/{i}.png"), return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        cosines.append((output.image_embeds @ output.text_embeds.T).item())
    assert min(cosines) < -0.1 and max(cosines) > 0.05  # both kinds
    expected = 100 * sum(max(cosine, 0) for cosine in cosines) / len(cosines)
    assert results(folder / "evaluation")["CLIP score"] == pytest.approx(expected, abs=1e-3)

    finish("real", "--reference", "real", "--feature_extractor", "./clip", "--output_dir", "by_clip")
    assert results(folder / "by_clip")["feature extractor"] == "./clip"


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    "words, expected",
    [
        ("no/w/here --prompts prompts.txt --reference real --feature_extractor embedded", ["no/w/here", "folder"]),
        ("no/w/here --prompts prompts.txt --reference nowhere", ["no/w/here"]),  # before what takes long
        ("student --guidance_scale 2 --prompts prompts.txt --reference nowhere", ["--guidance_scale"]),
        ("teacher --base_model teacher --prompts prompts.txt --reference nowhere", ["--base_model"]),
        ("student --reference real", ["--prompts"]),
        ("student --prompts nowhere.txt --reference real", ["--prompts nowhere.txt"]),
        ("student --prompts prompts.txt --num_images 6 --reference real", ["--num_images 6", "5 prompts"]),
        ("real --num_images 9 --reference real", ["--num_images 9", "8 images"]),
        ("real --prompts prompts.txt --reference real", ["5 prompts", "8 images"]),
        ("real", ["--reference"]),
        ("real --reference nowhere --feature_extractor embedded", ["--reference nowhere"]),
        ("real --reference student --feature_extractor embedded", ["--reference student", "no image"]),
        (
            "real --reference real --num_real_images 9 --feature_extractor embedded",
            ["--num_real_images 9", "8 images"],
        ),
        ("real --reference embedded --feature_extractor ./teacher", ["--feature_extractor ./teacher"]),
        ("real --reference real.safetensors", ["--reference real.safetensors"]),
        ("real --reference student/pytorch_lora_weights.safetensors", ["--reference student", "--save_reference"]),
        ("real --reference real", ["--feature_extractor inception", "torch-fidelity"]),
        ("real --protocol coco2014-512 --reference real", ["--num_images 30000", "8 images"]),
        ("real --clip_model ./teacher --prompts prompts.txt --num_images 5", ["--clip_model ./teacher"]),
        ("real --clip_model ./teacher", ["--clip_model needs --prompts"]),
        ("real --reference real --protocol coco", ["--protocol"]),
        ("real --reference real --batch_size 0", ["--batch_size"]),
    ],
)
def test_bad_input(folder, words, expected):
    run = start(words.split(), script=SCRIPT)
    assert run.wait() == 2, run.output
    last = run.output.strip().splitlines()[-1]
    assert last.startswith("evaluate_disback.py: error: ") and "Traceback" not in run.output, run.output
    assert [part for part in expected if part not in last] == [], last
    assert not (folder / "evaluation/images").exists()


def test_statistics_of_another_kind(folder):
    finish("real", *REFERENCE, "--save_reference", "real.safetensors")
    words = ["real", "--reference", "real.safetensors"]
    refuses(*words, "--feature_extractor", "./teacher", expected=["--feature_extractor ./teacher"])
    refuses(*words, "--eval_size", "16", expected=["--reference real.safetensors", "--eval_size 32"])
    refuses(*words, "--num_real_images", "3", expected=["--reference real.safetensors", "8 images"])


def test_an_image_that_cannot_be_read(folder):
    (folder / "real/3.png").write_bytes(b"no image")
    refuses("real", *REFERENCE, expected=["real/3.png"])
