"""Models on the Hugging Face hub, stored as a model's own folder. Needs the extra ``equifuse[hub]``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from equifuse.errors import DataError, InputError

CARD = "README.md"


def _hub() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415
    except ImportError:
        raise InputError("the Hugging Face hub needs an extra; run pip install 'equifuse[hub]'") from None
    return huggingface_hub


def download(repository: str, files: Collection[str], **options: Any) -> Path:
    """The local folder of a repository's ``files``, downloaded unless they are in the hub's cache already.

    Args:
        repository: ``owner/name``.
        files: names of the files.
        **options: ``revision``, ``cache_dir``, ``token``, ``local_files_only``; None for the hub's default.

    Raises:
        InputError: the extra is not installed.
        DataError: the repository or a file cannot be downloaded.
    """
    hub = _hub()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=list(files), **given))
    except (OSError, ValueError) as error:  # the hub's own errors are among them
        raise DataError(f"no model at {repository!r}, neither a folder nor on the hub: {_line(error)}") from error


def upload(folder: Path, repository: str, message: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder to a repository, which is created if it does not exist; returns the commit's address.

    Raises:
        InputError: the extra is not installed.
        DataError: the hub refuses.
    """
    api = _hub().HfApi(token=token)
    try:
        found = api.create_repo(repository, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=found, folder_path=folder, commit_message=message)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot push to {repository!r}: {_line(error)}") from error
    return str(commit.commit_url)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
