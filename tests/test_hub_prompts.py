# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Prompts of datasets on the Hub: files of texts are read and checked as local ones are."""

import json
import os
import subprocess
import sys

from fake_hub import OWNER, FakeHub


LOAD = """
import json, sys
from disback_diffusers import UsageError
from disback_diffusers.data.prompts import load_prompts
from disback_diffusers.hub import use_token

for name, column, token in json.loads(sys.argv[1]):
    try:
        with use_token(token):
            print(json.dumps(load_prompts(f"alice/{name}", column)))
    except UsageError as error:
        print(json.dumps(str(error)))
"""
DATASETS = {
    "lines": {"data/train.jsonl": b'{"caption": "a cat, black"}\n{"caption": "a dog"}\n', "data/test.jsonl": b"{}\n"},
    "table": {"prompts.csv": b'text,id\n"a cat, black",1\nNA,2\n'},
    "cut": {"prompts.csv": b"text\na cat, black\na dog\n"},
    "twice": {"prompts.csv": b"text,text\na,b\n"},
}


def test_datasets_on_the_hub(tmp_path):
    cases = [
        ("lines", "caption", None, ["a cat, black", "a dog"]),
        ("table", "text", None, ["a cat, black", "NA"]),
        ("cut", "text", None, "prompts.csv has 2 values in row 1 (line 2) for 1 columns: quote"),
        ("twice", "text", None, "more than one column 'text'"),
        ("table", "text", "hf_wrong", "the Hub does not accept the token (--hub_token"),
        ("private", "text", OWNER, ["a"]),
        ("missing", "text", None, "--prompt_dataset alice/missing cannot be loaded"),
    ]
    with FakeHub() as hub:
        for name, files in DATASETS.items():
            hub.add_repo(f"datasets/alice/{name}", files)
        hub.add_repo("datasets/alice/private", {"p.txt": b"a\n"}, private=True)
        environment = {**os.environ, **hub.env(token=None), "HF_HOME": str(tmp_path)}
        words = json.dumps([case[:3] for case in cases])
        done = subprocess.run([sys.executable, "-c", LOAD, words], env=environment, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stderr
    for (*_, expected), value in zip(cases, found, strict=True):
        assert value == expected if isinstance(expected, list) else expected in value, value
