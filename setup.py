# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Two folders are at the top of the repository, where users look for them, and are installed inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "disback_diffusers/__init__.py").read_text(), re.M).group(1)

TOP_LEVEL = {"disback_diffusers.pipelines": "pipelines", "disback_diffusers.model_cards": "model_cards"}

REQUIREMENTS = [
    "accelerate>=1.3",  # transformers 5.0 does not import with 1.1
    "datasets>=4.0",
    "diffusers>=0.40",  # older ones ignore `dtype=` in from_pretrained without a word
    "filelock>=3.12",
    "huggingface_hub>=1.23",  # what diffusers 0.40 asks for
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "numpy>=2.0",
    "peft>=0.18",
    "pillow>=10.1",
    "pyyaml>=6.0",
    "safetensors>=0.8",
    "torch>=2.6",  # what diffusers and transformers test against
    "tqdm>=4.66.3",
    "transformers>=5.0",  # layout of the embedded teacher's text encoder and tokenizer files
]
EVAL = ["gradio>=6.0", "scipy>=1.13", "torchmetrics>=1.7"]
TEST = [*EVAL, "pytest>=8.0", "pytest-xdist>=3.5", "setuptools>=77", "tensorboard>=2.18"]

setup(
    name="disback-diffusers",
    version=VERSION,
    description="Distribution Backtracking Distillation (DisBack) for diffusers: one-step students of SD and SDXL.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The disback-diffusers authors",
    license="Apache-2.0",
    keywords="diffusion distillation score-distillation one-step stable-diffusion sdxl diffusers",
    python_requires=">=3.10",
    packages=[*find_packages(include=["disback_diffusers", "disback_diffusers.*"]), *TOP_LEVEL],
    package_dir={"disback_diffusers": "disback_diffusers", **TOP_LEVEL},
    package_data={
        "": ["*.md", "*.json", "*.safetensors", "*.txt", "*.yaml", "py.typed"],
        "disback_diffusers": ["embedded/**"],
    },
    install_requires=REQUIREMENTS,
    extras_require={
        "gpu": ["bitsandbytes>=0.43.3", "xformers"],
        "eval": EVAL,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.12"],
    },
)
