# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""Errors of the Hugging Face Hub as messages of one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import RunError, UsageError, one_line


TOKEN = "the token (--hub_token, token=..., HF_TOKEN or `hf auth login`)"


@contextmanager
def reading(source: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises while a repository is read into our own errors.

    That a repository has no such file (`EntryNotFoundError`) passes through.

    Args:
        source (`str`): the repository's id.
        revision (`str`, *optional*): branch, tag or commit.

    Raises:
        UsageError: no valid id, no such repository or revision, or none that the token may read.
        RunError: the Hub cannot be reached, or fails, and the cache does not hold what is needed.
            Both messages start with `source`.
    """
    try:
        yield
    except HFValidationError:
        raise UsageError(f"{source} is neither a folder nor a Hub id (owner/name).") from None
    except RevisionNotFoundError:
        raise UsageError(f"{source} on the Hub has no revision {revision}.") from None
    except GatedRepoError:
        raise UsageError(
            f"{source} on the Hub is gated: accept its conditions on its page, then use a token of that account."
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"{source} is neither a folder nor a repository on the Hub that can be read: check the name, and for a "
            f"private one {TOKEN}."
        ) from None
    except LocalEntryNotFoundError:
        raise RunError(unreachable(source)) from None
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UsageError(f"{source} cannot be read: the Hub does not accept {TOKEN}. Correct it.") from None
        raise RunError(f"{source} cannot be read from the Hub: {one_line(error)}") from None
    except (HTTPError, ConnectionError):
        raise RunError(unreachable(source)) from None


def unreachable(source: str) -> str:
    """The message for a repository that is not in the cache while the Hub cannot be reached."""
    if "/" not in source:  # as the presets name a teacher that is converted first
        return (
            f"{source} is not a local folder, and no Hub id (owner/name): check the name. convert_edm.py makes the "
            "folder of a published pixel-space teacher."
        )
    if is_offline_mode():
        why = "HF_HUB_OFFLINE is set, so it cannot be downloaded: unset it"
    else:
        why = "the Hub cannot be reached: check the network and local_files_only"
    return f"{source} is not a local folder and not (completely) in the cache, and {why}, or check the name."
