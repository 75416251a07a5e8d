#!/usr/bin/env bash
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
#
# What only a GPU shows, in one call of at most 8 minutes on one H100 (80 GB), without a network:
#
#     bash benchmarks/on_gpu_wheels.sh        # beforehand, where there is a network: what the GPU machine lacks
#     bash benchmarks/on_gpu.sh               # there, in a copy of this checkout with benchmarks/wheels/
#     bash benchmarks/on_gpu.sh --rehearse    # anywhere, in about a minute: all of it with tiny models on the CPU
#
# SDXL at 1024x1024, SD 1.5 at 512x512 and the pixel-space teachers have their full size but random weights and prompt
# embeddings, so nothing is downloaded. Training steps are those of the presets, by the code that trains. Parts, in
# this order:
#
#     sdxl_24gb, sd15_24gb, sdxl_80gb   memory and seconds a step of a preset, and what --dry_run computes
#     textbook     the step as it is usually written, with three full UNets, and ours at the same settings
#     inference    images a second: a student in one step, its teacher in 50
#     options      AdamW and its 8-bit form, SDPA and xformers
#     demo         the demo trained in bf16 and in fp16, to its FD
#     edm_imagenet64, edm_lsun256       as the first three, of the paper's pixel-space teachers
#     compile      one-step inference and a training step, without and with torch.compile; it has what time is left,
#                  and may need a call of its own: --only compile
#
# Each runs in a process of its own and writes benchmarks/results/gpu_<part>.json (--output DIR) as it goes; with $OUT
# set, there as well. The file names the card, the versions, the settings, and how the part ended ("status"). A part
# that fails, hangs or is out of memory does not stop the others; one that the time (--minutes) runs out on keeps what
# it had measured. The exit code is 0 if all are complete or left out, as a card may be too small for one. A package
# that is missing or does not work on the card is left out, and the file says why: 8-bit Adam is then replaced by
# AdamW, in what --dry_run computes too.
#
# To call it again is safe: parts without a complete result of this card come first, the others are measured anew, and
# a complete result is only replaced by a complete one. --only PART ... runs these alone. Nothing is installed: wheels,
# compiled code and everything else are in a temporary folder. $PYTHON is the interpreter, by default python3.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/on_gpu.py" "$@"
