# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Which files a pipeline consists of, and in which variants it has its weights, from the files' names alone."""

import json
import os
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from ..errors import RunError, UsageError, one_line
from ..hub_errors import reading


INDEX_NAME = "model_index.json"
# diffusion_pytorch_model.fp16.safetensors, model-00001-of-00002.safetensors, model.fp16-00001-of-00002.safetensors
WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(-\d+-of-\d+)?(\.(?P<variant>[\w-]+?))?(-\d+-of-\d+)?"
    r"\.(?P<format>safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx)"
)
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


class PipelineFiles:
    """The files of a pipeline's folder or Hub repository.

    Attributes:
        source (`str`): folder or Hub id.
        names (`list[str]`): such as "unet/config.json", to a depth of two.

    Args:
        source (`str`): a folder or a Hub id; without a network the cache is used.
        revision (`str`, *optional*): of a repository.

    Raises:
        UsageError: neither a folder nor a repository that can be read; the message starts with `source`.
        RunError: the Hub cannot be reached and the cache does not hold the pipeline; likewise.
    """

    def __init__(self, source: str, revision: str | None = None):
        self.source = source
        if os.path.isdir(source):
            self.names = _tree(source)
            return
        refuse_single_file(source)
        if os.path.isfile(source):
            convert = "; convert_edm.py makes a folder of a pixel-space teacher's file"
            more = convert if source.endswith((".pkl", ".pt")) else ""
            raise UsageError(f"{source} is a file: give a pipeline folder or a Hub id{more}.")
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise UsageError(f"{source} is not a folder: give a pipeline folder or a Hub id.")
        with reading(source, revision):
            self.names = _repository(source, revision)

    @property
    def folders(self) -> set[str]:
        """Names of its folders (`set[str]`)."""
        return {name.split("/")[0] for name in self.names if "/" in name}

    def place(self, part: str, config: str = "config.json") -> str:
        """The folder of a part (`str`): "" where its files are at the top, as in a model's own folder and in the
        repositories of DDPM's authors.

        Args:
            part (`str`): such as "unet".
            config (`str`): the name of its config file.
        """
        return "" if part not in self.folders and config in self.names else part

    def variant(self, part: str, wanted: str | None, or_the_only_one: bool = False) -> str | None:
        """The variant to load a part in: the one wanted where the part has it, else None, the plain files.

        Args:
            part (`str`): a folder, such as "unet", or "" for the top one.
            wanted (`str` or `None`): such as "fp16".
            or_the_only_one (`bool`): take another variant where there is no choice.

        Raises:
            UsageError: the part has no safetensors files of either kind; says what it has instead.
        """
        place = f"{part}/" if part else ""
        inside = [name.removeprefix(place) for name in self.names if name.startswith(place)]
        found = [match for match in map(WEIGHTS.fullmatch, inside) if match]
        variants = [match["variant"] for match in found if match["format"] == "safetensors"]
        if wanted in variants:
            return wanted
        if None in variants:
            return None
        if or_the_only_one and len(set(variants)) == 1:
            return variants[0]
        where = f"{self.source} has {{}} in {place or './'}"
        if variants:
            raise UsageError(f'{where.format("weights")} as variant {variants[0]} only: try variant="{variants[0]}".')
        if found:
            raise UsageError(
                f"{where.format('no safetensors')}, only .{found[0]['format']} files, which are pickled and may run "
                "code when they are loaded. If you trust them, convert them once: "
                "DiffusionPipeline.from_pretrained(..., use_safetensors=False).save_pretrained(FOLDER)."
            )
        raise UsageError(f"{where.format('no weights')}: complete the folder, or download it again.")

    def check_readable(self, part: str, variant: str | None) -> None:
        """Read the headers of a part's safetensors files in a folder on this machine.

        Raises:
            UsageError: one is missing or damaged; names it.
        """
        folder = Path(self.source, part)
        if not folder.is_dir():
            return
        for match in filter(None, map(WEIGHTS.fullmatch, sorted(os.listdir(folder)))):
            if match["format"] == "safetensors" and match["variant"] == variant:
                _check_header(os.path.join(self.source, part, match[0]))
        for index in folder.glob(f"*.safetensors.index{'.' + variant if variant else ''}.json"):
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError, TypeError):
                raise UsageError(f"{index} is damaged: download it again.") from None
            if missing := [name for name in sorted(shards) if not (folder / name).is_file()]:
                raise UsageError(f"{folder / missing[0]} is missing, which {index.name} names: download it again.")


def _check_header(file):
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        with open(file, "rb") as opened:
            pointer = opened.read(1024).startswith(b"version https://git-lfs")
        what = "is a Git LFS pointer, not the weights" if pointer else f"is damaged ({one_line(error)})"
        raise UsageError(f"{file} {what}: download it again.") from None


def weights_hint(source: str, variant: str | None = None, revision: str | None = None) -> str | None:
    """Why a pipeline may have failed to load (`str`): a part with weights of another variant, or pickled; or None."""
    try:
        files = PipelineFiles(source, revision)
        found = [files.variant(part, variant) for part in sorted(files.folders.intersection(PARTS))]
        if variant and variant not in found:
            return f"{source} has no weights of variant {variant}: leave it out."
    except UsageError as error:
        return str(error)
    except RunError:
        pass
    return None


def refuse_single_file(source: str, cls: str = "StableDiffusionPipeline") -> None:
    """Raise a UsageError for a single-file checkpoint, there or not; it says how to make a folder of it.

    Args:
        source (`str`): file, folder or Hub id.
        cls (`str`): the class that loads such a file.
    """
    suffix = Path(source).suffix.lower()
    if suffix not in SINGLE_FILES or os.path.isdir(source):
        return
    remedy = f"{cls}.from_single_file(FILE).save_pretrained(FOLDER)"
    if cls == "StableDiffusionPipeline":
        remedy += " (SDXL: StableDiffusionXLPipeline)"
    if not os.path.exists(source):
        raise UsageError(
            f"{source}: there is no such file. A single file would also have to be made a folder: {remedy}."
        )
    if suffix == ".safetensors":
        raise UsageError(f"{source} is a single file; make a folder of it: {remedy}.")
    raise UsageError(
        f"{source} is a pickled file ({suffix}), which may run code when it is loaded. Take the model's .safetensors "
        f"file and make a folder of it: {remedy}."
    )


def _tree(folder):
    names = []
    for path in Path(folder).iterdir():
        names += [f"{path.name}/{inner.name}" for inner in path.iterdir()] if path.is_dir() else [path.name]
    return sorted(names)


def _repository(source, revision):
    try:
        return [file.rfilename for file in HfApi().model_info(source, revision=revision).siblings]
    except (OfflineModeIsEnabled, HTTPError, ConnectionError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        return _tree(snapshot_download(source, revision=revision, allow_patterns=[INDEX_NAME], local_files_only=True))
