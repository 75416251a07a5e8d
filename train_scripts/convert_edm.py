#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Turn a published EDM teacher into a diffusers folder, for --pretrained_teacher_model. No code from the file is run.

    python train_scripts/convert_edm.py edm-ffhq-64x64-uncond-vp.pkl ffhq-64
    python train_scripts/convert_edm.py edm_imagenet64_ema.pt imagenet-64

FILE is a .pkl of NVlabs' EDM with EDM's own preconditioning (edm-*.pkl), or a .pt of OpenAI's consistency models
(edm_*_ema.pt).
"""

import argparse
import os
import sys

from disback_diffusers.errors import RunError, UsageError
from disback_diffusers.files import user_path
from disback_diffusers.models.edm_conversion import convert_file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=user_path, help="A published .pkl or .pt file.")
    parser.add_argument("folder", type=user_path, help="A new folder for the teacher.")
    args = parser.parse_args()
    try:
        print(convert_file(args.file, args.folder))
        return 0
    except (UsageError, RunError) as error:
        print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main())
