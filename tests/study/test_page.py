# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What the page of a blind comparison shows, without a server."""

import base64
import io
import json
import re

import pytest
from comparisons import colour, make_folders
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from disback_diffusers.errors import UsageError
from disback_diffusers.study.page import build_page, cast, image_tag, show
from disback_diffusers.study.study import Study


@pytest.fixture
def study(tmp_path):
    make_folders(tmp_path)
    study = Study(tmp_path / "A", tmp_path / "B", [f"<b>{i}</b> & ${{x}}" for i in range(6)], tmp_path / "out")
    study.open()
    return study


def images(shown):
    data = re.findall(r'src="data:image/png;base64,([^"]*)"', shown)
    return [Image.open(io.BytesIO(base64.b64decode(part))) for part in data]


def test_the_page_shows_prompt_progress_and_both_images_on_their_sides(study):
    _, question = study.next("ann")
    _, shown = show(study, "ann")
    number = int(question.pair.name[:6])
    assert "1 of 6" in shown and f"&lt;b&gt;{number}&lt;/b&gt; &amp; ${{x}}" in shown
    sides = "AB" if question.a_left else "BA"
    assert [image.getpixel((0, 0)) for image in images(shown)] == [colour(side, number) for side in sides]


def test_without_prompts_there_are_images_alone(tmp_path):
    make_folders(tmp_path)
    study = Study(tmp_path / "A", tmp_path / "B", None, tmp_path / "out")
    study.open()
    shown = show(study, "ann")[1]
    assert len(images(shown)) == 2 and 'class="prompt"' not in shown
    page = json.dumps(build_page(study).get_config_file()["components"], default=str)
    assert "Choose the better one." in page and "the text" not in page


def test_nothing_on_the_page_names_a_file_or_a_folder(study, tmp_path):
    for _ in range(6):
        ticket, shown = show(study, "ann")
        text = re.sub(r'src="[^"]*"', "", shown) + ticket
        assert "png" not in text and "00" not in text.replace(study.key, "").split('"shown"')[0]
        assert str(tmp_path) not in text
        assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', shown))
        cast(study, "left", ticket)


def test_after_the_last_pair_thanks_and_no_result(study):
    for _ in range(6):
        cast(study, "left", show(study, "ann")[0])
    ticket, shown = show(study, "ann")
    assert ticket == "" and "Thank you" in shown and "all 6 pairs" in shown and images(shown) == []
    assert show(study, "bob")[0]


def test_an_image_keeps_its_pixels_and_loses_its_metadata(tmp_path):
    noise = Image.effect_noise((300, 200), 90).convert("RGB")
    text = PngInfo()
    text.add_text("parameters", "model A")
    noise.save(tmp_path / "large.png", pnginfo=text)
    (image,) = images(image_tag(tmp_path / "large.png"))
    assert image.tobytes() == noise.tobytes() and image.info == {}
    assert 'class="large"' in image_tag(tmp_path / "large.png")


def test_small_images_are_enlarged_without_smoothing(study):
    assert show(study, "ann")[1].count('class="small"') == 2


def test_a_page_of_another_comparison_has_no_vote(study, tmp_path):
    ticket, _ = show(study, "ann")
    other = Study(tmp_path / "A", tmp_path / "B", list("abcdef"), tmp_path / "other")
    for study_there, given in ((other, ticket), (study, ""), (study, "{}"), (study, "[1]"), (study, "7")):
        with pytest.raises(UsageError, match="another comparison: reload"):
            cast(study_there, "left", given)
    assert cast(study, "left", ticket) == "ann"
    assert json.loads(show(study, "ann")[0])["position"] == 1
