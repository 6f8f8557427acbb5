"""A finished run's way to the Hub, taken only when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolrl_cli.errors import SetupError, UsageError, first_line
from toolrl_cli.manifest import read_manifest
from toolrl_cli.training.card import write_card
from toolrl_cli.training.models import HUB_ID

KEPT_HERE = ["*/*", "completions.jsonl", "training_args.bin"]
"""Not uploaded: checkpoints and evaluations, and what holds the text of examples."""


def check_hub(repository: str) -> None:
    """Make sure, before any training, that the Hub will take an upload.

    Raises:
        UsageError: the name is not ORG/NAME.
        SetupError: the Hub cannot be reached, or does not know the user.
    """
    from huggingface_hub import HfApi

    if not HUB_ID.fullmatch(repository):
        raise UsageError(f"--push-to-hub {repository}: must read ORG/NAME")
    with hub_errors_named(repository, "log in by: hf auth login"):
        HfApi().whoami()


def push_to_hub(folder: Path, repository: str) -> None:
    """Upload a run's model, manifest, metrics and a card of today; a repository that is new is private.

    Raises:
        SetupError: the Hub refuses or cannot be reached; the run itself is finished and stays.
    """
    from huggingface_hub import HfApi

    write_card(folder, read_manifest(folder))
    with hub_errors_named(repository, f"the run is finished; upload it by: hf upload {repository} {folder}"):
        HfApi().create_repo(repository, private=True, exist_ok=True)
        HfApi().upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=KEPT_HERE, commit_message="toolrl run"
        )


@contextmanager
def hub_errors_named(repository: str, fix: str) -> Iterator[None]:
    """Turn what the Hub's client raises into `SetupError`."""
    try:
        yield
    except Exception as error:  # those of its HTTP library among them, which changes
        raise SetupError(f"--push-to-hub {repository}: {first_line(error).rstrip('.')}; {fix}") from error
