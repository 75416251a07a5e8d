# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What a run shows while it goes on: pictures and trackers."""

import numpy as np
import pytest
from PIL import Image
from script_runs import log, quick_words, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_samples_and_trackers(files):
    run = start(quick_words("--validation_steps", "4", "--report_to", "tensorboard", "--guidance_scale", "2"))
    assert run.wait() == 0, run.output
    sheets = {path.name: np.asarray(Image.open(path)) for path in (files / "out" / "samples").glob("step-*.png")}
    assert sorted(sheets) == ["step-4.png", "step-8.png"]
    assert (sheets["step-4.png"] != sheets["step-8.png"]).any()  # the student's row changes

    folders = {path.parent for path in (files / "out" / "logs").rglob("events*")}
    (events,) = [e for e in (EventAccumulator(str(f), {"images": 0}).Reload() for f in folders) if e.Tags()["images"]]
    fake = [(event.step, event.value) for event in events.Scalars("backtracking/loss_fake")]
    logged = [(6 + line["step"], pytest.approx(line["loss_fake"])) for line in log("out") if "loss_fake" in line]
    assert fake == logged and len(logged) == 8  # one rising count: stage 1 took 6 updates
    assert [event.step for event in events.Scalars("degradation/loss_target")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Images("samples")] == [6 + 4, 6 + 8]
