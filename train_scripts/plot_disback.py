#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Draw the curves of a run, finished or still going, into its folder `plots/`, as PNG and SVG.

python train_scripts/plot_disback.py my-one-step-model
"""

import argparse
import sys

from disback_diffusers.errors import RunError, UsageError
from disback_diffusers.evaluation.curves import plot_run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="Output folders.")
    args = parser.parse_args()
    try:
        for run in args.runs:
            print("\n".join(map(str, plot_run(run))))
    except (UsageError, RunError) as error:
        print(f"plot_disback.py: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
