# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Running a stage without the trainer."""


def steps(stage, n):
    """Run n steps as the trainer does; the metrics of each, as numbers."""
    history = []
    if stage.step == 0:
        stage.start()
    for _ in range(n):
        metrics = {name: float(value) for name, value in stage.train_step(stage.step + 1).items()}
        stage.after_step(stage.step + 1, metrics)
        stage.step += 1
        history.append(metrics)
    return history
