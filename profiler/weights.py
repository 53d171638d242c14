"""Real weights before launch: told how large and whether gated, then fetched, apart from any start-up timing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import RunFailedError, UsageError

if TYPE_CHECKING:
    from profiler.report.progress import Progress
    from servers.models import ModelSpec

_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")
# Only where a repository has no safetensors; the same weights twice would double the download.
_OLD_PATTERNS = (*_PATTERNS[:1], "*.bin", *_PATTERNS[2:])


def ensure(path: str, spec: ModelSpec | None, progress: Progress) -> None:
    """Make sure that the model's files are on this machine; a local directory is taken as it is.

    Raises:
        UsageError: the model is gated and there is no token, or the disk has too little room.
        RunFailedError: the download failed.
    """
    if Path(path).is_dir() or _cached(path):
        return
    from huggingface_hub import constants, get_token  # noqa: PLC0415 - half a second that no other path pays

    if spec is not None and spec.gated and get_token() is None:
        raise UsageError(
            f"{path} is gated: its licence has to be accepted and a token given",
            hint="accept it on its model page, then set HF_TOKEN; or use --weights random",
        )
    size = spec.download_bytes if spec is not None else None
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    told = f"{size / 1e9:.1f} GB" if size else "an unknown size"
    progress.line(f"{path} is not on this machine: downloading {told} to {cache} ({free / 1e9:.1f} GB free)")
    if size and free < 1.1 * size:
        raise UsageError(
            f"{path} needs {told} and {cache} has {free / 1e9:.1f} GB free",
            hint="free space, set HF_HOME to a larger disk, or use --weights random",
        )
    _download(path)


def _cached(repo_id: str) -> bool:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        found = Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return _whole(found)


def _whole(found: Path) -> bool:
    """Return whether a snapshot has weights, and every shard of them that its index names."""
    for index in found.glob("*.index.json"):
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        if all((found / shard).exists() for shard in shards):
            return True
    indexed = any(found.glob("*.index.json"))
    return not indexed and (any(found.glob("*.safetensors")) or any(found.glob("*.bin")))


def _download(repo_id: str) -> None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError  # noqa: PLC0415

    try:
        found = Path(snapshot_download(repo_id, allow_patterns=list(_PATTERNS)))
        if not _whole(found):
            snapshot_download(repo_id, allow_patterns=list(_OLD_PATTERNS))
    except GatedRepoError as error:
        raise UsageError(
            f"{repo_id} is gated for this token", hint="accept its licence, or --weights random"
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"the hub has no model {repo_id}", hint="check the name: jouletrace models") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub could not be reached"
        raise RunFailedError(
            f"downloading {repo_id} failed, {where}: {reason[:200]}",
            hint="check the network, name a local directory as MODEL, or use --weights random",
        ) from error
