"""The tables of the page about a prepared dataset: files left out, encoders, settings, shards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from xmdpt_cli.files import human_bytes
from xmdpt_cli.report.dataset_statistics import flatten, group_skipped
from xmdpt_cli.report.pages import code
from xmdpt_cli.report.tables import Table

LISTED = 1000  # files left out that the page names; dataset.json names all
# entries of the manifest that the page shows elsewhere
SHOWN = {"format", "version", "resolution", "toy", "counts", "encoders", "shards", "skipped"}
# entries of an encoder that have columns of their own, or that its kind implies
COLUMNS = ("id", "kind", "revision", "sha256", "dtype", "toy")
NETWORKS = {
    "vae": "VAE",
    "source": "DINOv2 of the source",
    "pose": "DINOv2 of the pose",
    "poses": "Keypoint detector",
}
# settings of the manifest in words; others as they are, without dots and underscores
WORDS = {
    "tokens": "number format of the tokens",
    "poses.kind": "keypoints",
    "input_size": "input size in pixels",
    "length": "tokens per image",
    "width": "numbers per token",
    "scale": "latent scale",
    "factor": "downsampling factor",
    "channels": "latent channels",
}
VALUES = {("poses.kind", "listed"): "from the lists of the dataset"}
BREAK = Markup("<br>")
SMALL = Markup("<small>{} {}</small>")


def reason_table(skipped: Sequence[Sequence[str]]) -> Table:
    """Why files are not in the dataset, most frequent reason first."""
    rows = []
    for group in group_skipped(skipped):
        reason = group.examples[0][1]
        more = "" if reason == group.reason else SMALL.format("such as:", reason)
        files = BREAK.join(code(file) for file, _ in group.examples)
        rows.append([f"{group.count:,}", Markup("{}{}").format(group.reason, more), files])
    return Table("", ["Files", "Reason", "First of them"], rows, numbers=(0,))


def skipped_table(skipped: Sequence[Sequence[str]]) -> Table:
    """The first files that are not in the dataset."""
    return Table("", ["File", "Reason"], [[code(file), why] for file, why in skipped[:LISTED]])


def network_table(manifest: dict[str, Any]) -> Table:
    """The encoders, and whatever else of the manifest has weights."""
    rows = []
    for name, about in _entries(manifest):
        if _is_network(about):
            kind = f" ({about['kind']})" if about.get("kind") else ""
            marks = [
                SMALL.format(mark, code(about[mark]))
                for mark in ("revision", "sha256")
                if about.get(mark)
            ]
            rest = flatten({key: value for key, value in about.items() if key not in COLUMNS})
            rows.append([
                NETWORKS.get(name, _in_words(name)),
                Markup("{}{}").format(code(about["id"]), kind) + Markup("").join(marks),
                str(about.get("dtype") or ""),
                BREAK.join(f"{_in_words(key)}: {value}" for key, value in rest),
            ])  # fmt: skip
    return Table("", ["Network", "Weights", "Precision", "Settings"], rows)


def settings_table(manifest: dict[str, Any]) -> Table:
    """All settings of the manifest that are not shown elsewhere."""
    settings = [("resolution", f"{manifest['resolution']} px")]
    for name, value in _entries(manifest):
        if not _is_network(value) and name != "encoders.toy":
            settings += flatten(value, name)
    rows = [[_in_words(name), code(VALUES.get((name, value), value))] for name, value in settings]
    return Table("", ["Setting", "Value"], rows)


def shard_table(shards: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            code(shard["name"]),
            f"{int(shard['samples']):,}",
            human_bytes(int(shard["bytes"])),
            code(shard["sha256"]),
        ]
        for shard in shards
    ]
    return Table("", ["Shard", "Items", "Size", "sha256"], rows, numbers=(1, 2))


def _entries(manifest: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Networks by their own name, settings of the encoders as ``encoders.<name>``."""
    for name, value in manifest["encoders"].items():
        yield (name if _is_network(value) else f"encoders.{name}"), value
    yield from ((name, value) for name, value in manifest.items() if name not in SHOWN)


def _is_network(value: Any) -> bool:
    return isinstance(value, dict) and "id" in value


def _in_words(name: str) -> str:
    return WORDS.get(name, re.sub("[._]", " ", name))
