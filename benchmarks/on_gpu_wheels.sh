#!/usr/bin/env bash
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
#
# Download what the image of the GPU machine lacks into benchmarks/wheels/ (ignored by git), for on_gpu.sh to use there,
# where there is no network. Again, it does the same anew; the folder is replaced as a whole, once everything is there.
#
#     bash benchmarks/on_gpu_wheels.sh
#
# benchmarks/gpu/wheels.txt lists the packages, benchmarks/gpu/image_packages.txt what is in the image; it is checked by
# their metadata that together they have all that this package needs, and that the wheels take at most 40 MiB.
# Nothing is left out: bitsandbytes alone would be 41 MiB, but is stripped of the libraries for other CUDA releases and
# other makers' GPUs, after which it takes 4. The wheel of xformers was built for CUDA 12.8; its own kernels cannot be
# loaded with CUDA 13, but its memory-efficient attention calls PyTorch's, which do. on_gpu.sh tries both packages on
# the card first and goes on without one that does not work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

new=$(mktemp -d benchmarks/wheels.XXXXXX)
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"  # mktemp lets nobody else read it
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --dest "$new" -c constraints.txt -r benchmarks/gpu/wheels.txt
PYTHONPATH=benchmarks "$python" -m gpu.wheels "$new"
rm -rf benchmarks/wheels
mv "$new" benchmarks/wheels
