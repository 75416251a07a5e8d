# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The files of a finished student, and publishing them on the Hugging Face Hub."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from .card_edits import card_to_push
from .errors import RunError, UsageError, one_line
from .files import LORA_NAME, atomic_write, usual_mode
from .hub_errors import TOKEN
from .models.embedded import EMBEDDED


FORMAT = 1
CONFIG_NAME = "disback_config.json"
CARD_NAME = "README.md"
UNET_FOLDER = "unet"
# All that is ever uploaded of an output folder: no checkpoints, optimizer states, logs or caches.
PUBLISHED = (
    CONFIG_NAME,
    CARD_NAME,
    LORA_NAME,
    *(f"{UNET_FOLDER}/{name}" for name in ("config.json", "*.safetensors", "*.safetensors.index.json")),
    "samples/*.png",
)
PATH_FILES = tuple(f"degradation/{name}" for name in ("manifest.json", "path.png", "*.safetensors"))  # if asked for

# ---------------------------------------------------------------------------------------------------------------------
# The artefact


def write_artefact_config(folder, config):
    """Write disback_config.json, atomically.

    Args:
        folder (`str` or `os.PathLike`): the artefact's folder.
        config (`dict`): `conditioning_timestep`, and as far as they are known `base_model`, `base_revision`,
            `pipeline` (the teacher's class), `student`, `lora_rank`, `lora_alpha`, `method`. `format` is added.
    """
    file = Path(folder) / CONFIG_NAME
    config = {"format": FORMAT, **config}
    _check_config(file, config)
    text = json.dumps(config, indent=2) + "\n"
    atomic_write(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_artefact_config(folder):
    """disback_config.json as a dict, empty where there is none.

    Raises:
        UsageError: it is no JSON, of an unknown format, or has no valid conditioning timestep.
    """
    file = Path(folder) / CONFIG_NAME
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is broken ({error}): restore it, or take it from another save of the run.") from None
    _check_config(file, config)
    return config


def _check_config(file, config):
    format = config.get("format") if isinstance(config, dict) else None
    if format != FORMAT:
        raise UsageError(f"{file} has format {format!r}, this version reads {FORMAT}: a newer one may be needed.")
    timestep = config.get("conditioning_timestep")
    if type(timestep) is not int or timestep < 0:
        raise UsageError(f"{file} has conditioning_timestep {timestep!r}; it must be a whole number, at least 0.")


def save_student_lora(folder, state, lora_config):
    """Write pytorch_lora_weights.safetensors, atomically, as `load_lora_weights` of plain diffusers reads it.

    Args:
        folder (`str` or `os.PathLike`): the artefact's folder.
        state (`dict` of `torch.Tensor`): with PEFT's own keys (`....lora_A.weight`). Converted to the older
            `.lora.down` style, the attention part would be dropped at loading without a word.
        lora_config (`peft.LoraConfig` or `dict`): rank, alpha and targets, kept in the file; without it alpha would
            be taken to equal the rank.

    Raises:
        RunError: it cannot be written.
    """
    from diffusers import StableDiffusionPipeline

    strange = [key for key in state if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange or not state:
        raise ValueError(f"These are no keys of a PEFT LoRA: {strange[:3]}")
    config = lora_config if isinstance(lora_config, dict) else lora_config.to_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}

    def write(temporary):
        StableDiffusionPipeline.save_lora_weights(
            temporary.parent, tensors, weight_name=temporary.name, unet_lora_adapter_metadata=config
        )

    atomic_write(Path(folder) / LORA_NAME, write)


def save_student_unet(folder, unet):
    """Write unet/ (config and safetensors), as `UNet2DConditionModel.from_pretrained` reads it.

    An older unet/ stays in place until the new one is complete.

    Raises:
        RunError: it cannot be written.
    """
    if getattr(unet, "peft_config", None):
        raise ValueError("The UNet carries adapters: as they are, nobody could load them from unet/.")
    target = Path(folder) / UNET_FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{UNET_FOLDER}-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            unet.save_pretrained(new)
            for file in new.iterdir():
                usual_mode(file)
            config = json.loads((new / "config.json").read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # a path of this machine, or the base: this is neither
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            if target.exists():
                target.rename(old)
            new.rename(target)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{target} cannot be written ({error}): free space on that disk, or choose another.") from error


# ---------------------------------------------------------------------------------------------------------------------
# The Hub


def hub_id(base_model):
    """`base_model` where it names a repository on the Hub (owner/name), else None (a folder, the embedded teacher)."""
    name = str(base_model or "")
    if name.count("/") != 1 or os.path.exists(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_config(config):
    """The configuration without local paths: such a base model becomes None, of other paths the last part stays."""
    public = {key: without_paths(value) for key, value in config.items()}
    base = config.get("base_model")
    if "base_model" in config and base != EMBEDDED:
        public["base_model"] = hub_id(base)
    if public.get("base_model") is None:
        public.pop("base_revision", None)
    return public


def without_paths(value):
    """A plain value in which of each local path only the last part is left."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (value.startswith((".", "/", "~")) or (os.sep in value and os.path.exists(value))):
        return Path(value).name
    return value


def create_hub_repo(repo_id, token=None, private=None):
    """Make the repository, or make sure that an existing one may be written to; before training, so that nothing is
    lost after it.

    Args:
        repo_id (`str`): "name" or "owner/name" (`--hub_model_id`).
        token (`str`, *optional*): by default the one of `hf auth login` or HF_TOKEN.
        private (`bool`, *optional*): of a new repository; by default as the owner has set it.

    Returns:
        `str`: "owner/name".

    Raises:
        UsageError: no valid name, no token, or one without the right to write there.
        RunError: the Hub cannot be reached, or fails.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id} is no valid name of a repository: {one_line(error)}") from None
    if not (token or get_token()):
        raise UsageError(
            "pushing to the Hub needs a token with write access: `hf auth login`, HF_TOKEN, or --hub_token (token=... "
            "in Python)."
        )
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(made, write=True)  # to "create" an existing repository one only needs to be able to read it
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise UsageError(f"the Hub does not accept {TOKEN}.") from None
        if status in (403, 404):
            raise UsageError(f"{TOKEN} has no right to write to {repo_id} ({status}).") from None
        raise RunError(f"the Hub cannot make {repo_id}: {one_line(error)}") from None
    except (HTTPError, OSError) as error:
        raise RunError(
            f"the Hub cannot be reached ({one_line(error)}): check the network and HF_HUB_OFFLINE, or leave out "
            "--push_to_hub and upload later."
        ) from None
    return made


@contextmanager
def use_token(token):
    """Within, all that reads from or writes to the Hub uses this token, the datasets and model libraries included."""
    before = os.environ.get("HF_TOKEN")
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if token and before is None:
            del os.environ["HF_TOKEN"]
        elif token:
            os.environ["HF_TOKEN"] = before


def published_files(folder, with_path=False):
    """What `push_folder` uploads, as sorted paths within the folder."""
    folder, patterns = Path(folder), (*PUBLISHED, *(PATH_FILES if with_path else ()))
    found = {file.relative_to(folder).as_posix() for pattern in patterns for file in folder.glob(pattern)}
    return sorted(name for name in found if (folder / name).is_file())


def push_folder(folder, repo_id, token=None, commit_message="Upload a DisBack student", with_path=False):
    """Upload a finished student in one commit: weights, configuration, card and samples.

    Checkpoints, optimizer states, logs and caches stay here, and so do the paths of this machine that the
    configuration may hold. A card that somebody has edited on the Hub stays as it is.

    Args:
        folder (`str` or `os.PathLike`): the output folder of a run.
        repo_id (`str`): as `create_hub_repo` has returned it.
        token (`str`, *optional*): by default the one of `hf auth login` or HF_TOKEN.
        with_path (`bool`, *optional*): upload the degradation path too, which is larger than a LoRA student.

    Returns:
        `str`: the address of the commit.

    Raises:
        UsageError: the folder holds no student.
        RunError: the upload failed; the message says how to try again.
    """
    folder = Path(folder).expanduser()
    names = published_files(folder, with_path)
    if CONFIG_NAME not in names or not {LORA_NAME, f"{UNET_FOLDER}/config.json"} & set(names):
        raise UsageError(f"{folder} holds no student to upload: {CONFIG_NAME} and {LORA_NAME} or {UNET_FOLDER}/.")
    config = json.dumps(public_config(read_artefact_config(folder)), indent=2) + "\n"
    content = {name: str(folder / name) for name in names} | {CONFIG_NAME: config.encode()}
    again = f"push_folder({str(folder)!r}, {repo_id!r}{', with_path=True' if with_path else ''})"
    remedy = (
        f"Nothing is lost, all is in {folder}; to try again: "
        f'python -c "from disback_diffusers.hub import push_folder; {again}"'
    )
    try:
        repo_id = create_hub_repo(repo_id, token)  # again: it may have been deleted, or this is a later attempt
    except (UsageError, RunError) as error:
        raise type(error)(f"{error} {remedy}") from None
    return _commit(content, repo_id, token, remedy, commit_message=commit_message)


def upload_pipeline(folder, repo_id, token=None, commit_message=None, create_pr=False, subfolder=None):
    """Upload a saved whole pipeline in one commit; arguments as in `DiffusionPipeline.push_to_hub`.

    Returns:
        `str`: the address of the commit.

    Raises:
        RunError: the upload failed.
    """
    names = [file.relative_to(folder) for file in Path(folder).rglob("*") if file.is_file()]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]  # .git, caches
    content = {(Path(subfolder or "") / name).as_posix(): str(Path(folder) / name) for name in names}
    message = commit_message or "Upload a DisBack student"
    return _commit(content, repo_id, token, "Try again later.", commit_message=message, create_pr=create_pr)


def _commit(content, repo_id, token, remedy, **options):
    """Upload files or bytes by their names in the repository."""
    api = HfApi(token=token)
    try:
        if CARD_NAME in content:
            new = Path(content[CARD_NAME]).read_text(encoding="utf-8")
            content[CARD_NAME] = card_to_push(_card_on_the_hub(api, repo_id), new).encode()
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        return api.create_commit(repo_id, operations, **options).commit_url
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: one of the large files
        raise RunError(f"the upload to {repo_id} failed ({one_line(error)}). {remedy}") from None


def _card_on_the_hub(api, repo_id):
    try:
        return Path(api.hf_hub_download(repo_id, CARD_NAME)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return ""
