#!/usr/bin/env python
# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Blind comparison: people vote on the images of two folders, on a local web page.

python train_scripts/compare_disback.py images-of-A images-of-B --prompts prompts.txt
python train_scripts/compare_disback.py images-of-A images-of-B --prompts prompts.txt --report

Images with the same file name are a pair. They are in the two folders, or in images/ of them. Ctrl-C stops the server
and prints the votes.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from disback_diffusers.data.prompts import load_prompts
from disback_diffusers.errors import UsageError, exit_code, one_line
from disback_diffusers.study.pairs import check_images
from disback_diffusers.study.study import Study
from disback_diffusers.study.votes import clean_name, report


def parse_args() -> argparse.Namespace:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", type=os.path.expanduser, help="Folder of images.")
    parser.add_argument("b", metavar="B", type=os.path.expanduser, help="Folder of images with the same file names.")
    parser.add_argument("--prompts", type=os.path.expanduser, metavar="FILE",
                        help=".txt (one prompt per line), .jsonl, .csv or .parquet; in the order of the file names. "
                        "Leave it out for models without prompts.")
    parser.add_argument("--caption_column", default="text", help="Column of the prompts, except in a .txt file.")
    parser.add_argument("--output_dir", default="comparison", type=os.path.expanduser, metavar="FOLDER",
                        help="Gets settings.json and one file of votes per rater (default: %(default)s).")
    parser.add_argument("--report", action="store_true", help="Print the votes so far and exit.")
    parser.add_argument("--rater", help="Name of the rater; by default the page asks for it.")
    parser.add_argument("--num_pairs", type=int, help="Size of a random choice of pairs (default: all).")
    parser.add_argument("--seed", type=int, help="For the choice, the orders and the sides (default: 0).")
    parser.add_argument("--host", default="127.0.0.1", help="Address to serve on (default: %(default)s).")
    parser.add_argument("--port", type=int, default=7860, help="Default: %(default)s.")
    # fmt: on
    return parser.parse_args()


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket. Opened early, so that no other process takes the port while the page is built."""
    if not 0 < port < 65536:
        raise UsageError(f"--port {port}: choose 1 to 65535.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except socket.gaierror:
        raise UsageError(f"--host {host} is no address of this machine.") from None
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; choose another --port.") from None


def serve(study: Study, args: argparse.Namespace) -> None:
    """Check the images and serve the page until Ctrl-C."""
    rater = args.rater
    if rater is not None:
        try:
            rater = clean_name(rater)
        except UsageError as error:
            raise UsageError(f"--rater {rater!r}: {error}") from None
    check_images(study.pairs)
    listener = open_port(args.host, args.port)
    try:
        from disback_diffusers.study import page
    except ImportError as error:
        raise UsageError(f'gradio is missing ({one_line(error)}): pip install "disback-diffusers[eval]"') from None
    study.open()
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{host}:{args.port}/ (Ctrl-C stops the server and prints the votes)", flush=True)
    try:
        page.serve(study, listener, rater)
    except KeyboardInterrupt:
        print()


def main() -> None:
    args = parse_args()
    if args.prompts not in (None, "embedded") and not Path(args.prompts).is_file():
        raise UsageError(f"--prompts {args.prompts}: no such file.")
    prompts = args.prompts and load_prompts(args.prompts, args.caption_column, "--prompts")
    study = Study(args.a, args.b, prompts, args.output_dir, args.num_pairs, args.seed, source=args.prompts or "")
    if args.report and not study.begun:
        raise UsageError(f"--output_dir {args.output_dir} holds no comparison yet: leave out --report first.")
    if not args.report:
        serve(study, args)
    print(report(study))


if __name__ == "__main__":
    sys.exit(exit_code(main))
