# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""What measures the student along the training."""

from .batches import BatchSource
from .distance_probe import DistanceProbe
from .health_probe import HealthProbe
from .mismatch_probe import MismatchProbe
from .networks import Networks
from .parallel import Replicated
from .run_settings import RunArguments
from .sources import Sources


def make_probes(
    run: RunArguments,
    sources: Sources,
    networks: Networks,
    batches: BatchSource,
    parallel: Replicated,
    guidance_scale: float,
) -> list:
    """Those that the settings ask for; `guidance_scale` is the teacher's."""
    shared = networks, batches, parallel
    probes = [MismatchProbe(*shared, run.log_mismatch_every)] if run.log_mismatch_every else []
    if run.log_health_every:
        sampling = run.validation_inference_steps, guidance_scale, run.validation_scheduler
        probes.append(HealthProbe(*shared, run.log_health_every, *sampling))
    if run.log_fd_every:
        compared = sources.reference, sources.extractor
        probes.append(DistanceProbe(*shared, *compared, run.log_fd_every, run.fd_images))
    return probes
