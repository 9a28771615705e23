"""Sharing detectors on the Hugging Face hub, and taking them from there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flexdetr.weights.container import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from flexdetr.weights.store import Metadata

SCHEME: Final = "hf://"


class _UnreachableError(Exception):
    """No connection, or a server that does not answer."""


def _of_hub(action: Any, repository: str) -> Any:  # noqa: ANN401 - whatever the hub's function returns
    """Run a function of huggingface_hub; its many errors become ours."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return action()
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise _UnreachableError(_first_line(error)) from error
    except GatedRepoError as error:
        raise WeightsError(
            f"{SCHEME}{repository} is gated; ask for access and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{SCHEME}{repository} does not exist, or is private and you are not logged in"
        ) from error
    except (EntryNotFoundError, HFValidationError, HfHubHTTPError) as error:
        raise WeightsError(f"{SCHEME}{repository}: {_first_line(error)}") from error
    except Exception as error:
        # Its HTTP library changes with its version: httpx, httpx2.
        if type(error).__module__.startswith("httpx"):
            raise _UnreachableError(_first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def local(reference: str | Path) -> Path:
    """A checkpoint's place on this machine; ``hf://user/name[@revision]`` is fetched first.

    Only safetensors and JSON files are fetched, never pickles.

    Raises:
        WeightsError: if the hub does not have it or cannot be reached.
    """
    text = str(reference)
    if isinstance(reference, Path) or not text.startswith(SCHEME):
        return Path(reference)
    repository, _, revision = text.removeprefix(SCHEME).partition("@")
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json"]
    try:
        folder = _of_hub(
            lambda: snapshot_download(repository, revision=revision or None, allow_patterns=patterns),
            repository,
        )
    except _UnreachableError as error:
        raise WeightsError(
            f"{text} cannot be reached ({error}); fetch its model.safetensors and config.json on another machine, "
            "place them in one folder, and load that folder"
        ) from None
    return Path(folder)


def push(
    repository: str,
    state: Mapping[str, Tensor],
    metadata: Metadata,
    *,
    private: bool = False,
) -> str:
    """Share a detector: ``model.safetensors`` and a model card. ``flexdetr.load("hf://user/name")`` takes it back.

    See ``Detector.push_to_hub``.

    Raises:
        WeightsError: if the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    from flexdetr.weights import store

    api = HfApi()
    repository = repository.removeprefix(SCHEME)
    with tempfile.TemporaryDirectory() as folder:
        store.save(Path(folder) / "model.safetensors", state, metadata)
        (Path(folder) / "README.md").write_text(card(repository, metadata), encoding="utf-8")

        def upload() -> str:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Add a FlexDETR detector"
            )
            return str(address)

        try:
            return str(_of_hub(upload, repository))
        except _UnreachableError as error:
            raise WeightsError(
                f"{SCHEME}{repository} cannot be reached ({error}); nothing was shared"
            ) from None


def card(repository: str, metadata: Metadata) -> str:
    """The model card: what it detects, where its weights come from, how to use it."""
    names = ", ".join(str(row["name"]) for row in metadata.classes)
    licence = metadata.licence.lower() if metadata.licence != "unknown" else "unknown"
    lines = [
        "---",
        "library_name: flexdetr",
        "pipeline_tag: object-detection",
        "tags: [object-detection, rt-detr]",
        *([f"license: {licence}"] if licence != "unknown" else []),
        "---",
        f"# {repository.split('/')[-1]}",
        "",
        f"A {metadata.model} detector of {len(metadata.classes)} classes ({names}), "
        f"made for {metadata.image_size[0]}x{metadata.image_size[1]} images.",
        "",
        "```python",
        "import flexdetr",
        f'detections = flexdetr.load("{SCHEME}{repository}").predict("picture.jpg")',
        "```",
    ]
    if metadata.provenance:
        lines += ["", "Its weights descend from:", ""]
        lines += [
            f"- {row.get('source', '?')} ({row.get('licence', 'licence unknown')})"
            for row in metadata.provenance
        ]
    return "\n".join([*lines, ""])
