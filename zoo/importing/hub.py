"""A model's files from a Hugging Face hub: at one commit, verified, through `huggingface_hub`.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE count as everywhere; files lie in that library's cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, RepoFile, constants, set_client_factory, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.errors import AccessError, IntegrityError, NotFoundError, UnavailableError, ZooError
from zoo.importing.addresses import CheckedTransport
from zoo.settings import Settings

PREFIX = "hf:"
_WANTED = re.compile(
    r"(config|generation_config|preprocessor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)"
    r"\.json|(vocab|merges)\.txt|(spiece|tokenizer|sentencepiece[^/]*)\.model|README\.md|LICENSE[^/]*|NOTICE[^/]*"
    r"|recipe\.yaml|[^/]+\.safetensors(\.index\.json)?|[^/]+\.onnx([._]data)?|onnx/model\.onnx([._]data)?"
)
_PICKLES = re.compile(r"pytorch_model[^/]*\.bin(\.index\.json)?")


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit, on this machine."""

    repo_id: str
    commit: str
    folder: Path
    names: tuple[str, ...]


def fetch(repo_id: str, revision: str | None = None, *, pickles: bool = False) -> Snapshot:
    """Brings a model here; `pickles` takes pytorch_model.bin too, where there are no safetensors.

    Raises `NotFoundError`, `AccessError` (also for a redirect into this machine's network), `UnavailableError`,
    `IntegrityError` (wrong bytes).
    """
    Settings.load().check_online(f"fetch {PREFIX}{repo_id}")  # the library asks its own client, replaced below, alone
    # the transfer program of the newer protocol makes its own connections, past the check of addresses
    constants.HF_HUB_DISABLE_XET = True
    set_client_factory(_client)
    with _mapped(repo_id, revision):
        api = HfApi()
        commit = api.model_info(repo_id, revision=revision).sha or ""
        entries = api.list_repo_tree(repo_id, revision=commit, recursive=True)
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        names = sorted(_choose(files, pickles=pickles))
        if not names:
            raise NotFoundError(f"{PREFIX}{repo_id} has no file of a model")
        folder = Path(snapshot_download(repo_id, revision=commit, allow_patterns=names))
    for name in names:
        _verify(folder / name, files[name])
    return Snapshot(repo_id, commit, folder, tuple(names))


def _client() -> httpx2.Client:
    return httpx2.Client(transport=CheckedTransport(constants.ENDPOINT), follow_redirects=True, timeout=None)


def _choose(names: Iterable[str], *, pickles: bool) -> Iterator[str]:
    found = list(names)
    yield from (name for name in found if _WANTED.fullmatch(name))
    if pickles and not any(name.endswith(".safetensors") for name in found):
        yield from (name for name in found if _PICKLES.fullmatch(name))


def _verify(path: Path, entry: RepoFile) -> None:
    """Compares a file with what the hub says of it: sha256 of large files, git's blob id of small ones."""
    if entry.lfs is not None:
        with path.open("rb") as stream:
            actual, expected = hashlib.file_digest(stream, "sha256").hexdigest(), entry.lfs.sha256
    else:
        data = path.read_bytes()
        header = f"blob {len(data)}\0".encode()
        actual, expected = hashlib.sha1(header + data, usedforsecurity=False).hexdigest(), entry.blob_id
    if actual != expected:
        raise IntegrityError(
            f"{entry.path} has the digest {actual}, the hub says {expected}; remove {path.resolve()} and import again"
        )


@contextmanager
def _mapped(repo_id: str, revision: str | None) -> Iterator[None]:
    """The library's errors as ours."""
    name = f"{PREFIX}{repo_id}"
    try:
        yield
    except ZooError:
        raise
    except GatedRepoError:
        raise AccessError(f"{name} asks for its terms to be accepted; do so on its page, then set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise NotFoundError(f"{name} has no revision {revision}") from None
    except (RepositoryNotFoundError, EntryNotFoundError):
        hint = "check the name; a private one needs HF_TOKEN"
        raise NotFoundError(f"there is no {name} at {constants.ENDPOINT}: {hint}") from None
    except HFValidationError as error:
        raise NotFoundError(f"{name} is no repository's name: {error}") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        raise UnavailableError(f"{name} can't be fetched from {constants.ENDPOINT}: {error}") from error
