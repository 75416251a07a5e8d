# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The figures of the embedded teacher that `make demo` does not measure again."""

import json
import sys
from pathlib import Path

import pytest


sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import kept_figures  # noqa: E402
from emoji import Emoji  # noqa: E402


DEMO = ["untrained student, 1 step", *(f"teacher, {n} DDIM steps, guidance {g}" for g in (1, 3) for n in (4, 10))]


def test_they_hold_for_these_files_noise_and_images():
    figures = kept_figures.kept_figures(0, 32)
    assert set(DEMO) <= figures.keys() and all(figures[label]["FD"] > 0.4 for label in DEMO)
    assert kept_figures.kept_figures(1, 32) == kept_figures.kept_figures(0, 48) == {}


@pytest.mark.parametrize("name", ["sha256", "seed"])
def test_of_other_files_there_are_none(tmp_path, monkeypatch, name):
    record = json.loads(kept_figures.KEPT.read_text())
    monkeypatch.setattr(kept_figures, "KEPT", tmp_path / "kept.json")
    kept_figures.KEPT.write_text(json.dumps({**record, name: 7}))
    assert kept_figures.kept_figures(0, 32) == {}
    kept_figures.KEPT.unlink()
    assert kept_figures.kept_figures(0, 32) == {}


def test_every_file_counts(tmp_path, monkeypatch):
    for name in ("teacher/unet/config.json", "prompts.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(kept_figures, "FOLDER", tmp_path)
    hashes = {kept_figures.embedded_hash()}
    (tmp_path / "prompts.txt").write_text("b")
    hashes.add(kept_figures.embedded_hash())
    (tmp_path / "prompts.txt").rename(tmp_path / "other.txt")
    hashes.add(kept_figures.embedded_hash())
    assert len(hashes) == 3


@pytest.mark.slow
def test_only_the_images_of_the_sheet_are_generated(capsys):
    import torch

    class Counting:
        count = 0

        def set_progress_bar_config(self, **kwargs):
            pass

        def __call__(self, prompts, latents, output_type):
            self.count += len(prompts)
            return type("Output", (), {"images": torch.rand(len(prompts), 3, 32, 32)})

    emoji, pipeline = Emoji(), Counting()
    emoji.measure("teacher", pipeline, {"FD": 1.5, "top-10 retrieval": 0.5})
    assert pipeline.count == len(emoji.shown) and "measured before" in capsys.readouterr().out
    assert (emoji.rows[0]["FD"], emoji.kept) == (1.5, ["teacher"])
    emoji.measure("student", pipeline)
    assert pipeline.count == len(emoji.shown) + len(emoji.prompts) and emoji.rows[1]["FD"] != 1.5
