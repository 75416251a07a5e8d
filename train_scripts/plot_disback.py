#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Plot the log of a run, finished or not, into its folder `plots/`, as PNG and SVG.

python train_scripts/plot_disback.py my-one-step-model
"""

import argparse
import os
import sys

from disback_diffusers.errors import exit_code
from disback_diffusers.evaluation.curves import plot_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=os.path.expanduser, help="Output folders of runs.")
    for run in parser.parse_args().runs:
        print("\n".join(map(str, plot_run(run))))


if __name__ == "__main__":
    sys.exit(exit_code(main))
