"""The report page's tables: what is left out, what it was made with, the shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from xmdpt_cli.files import human_bytes
from xmdpt_cli.report.dataset_numbers import LeftOut, left_out, table_of
from xmdpt_cli.report.html import code, table

LISTED = 1000  # files left out that the page names; dataset.json names all
# in the manifest, and told elsewhere on the page
TOLD = {"format", "version", "resolution", "toy", "counts", "encoders", "shards", "skipped"}
# of a network: in columns of their own, or what the kind says
COLUMNS = ("id", "kind", "revision", "sha256", "dtype", "toy")
NETWORKS = {
    "vae": "VAE",
    "source": "DINOv2 of the source",
    "pose": "DINOv2 of the pose",
    "poses": "Keypoint detector",
}
# what the manifest calls its settings, in words; others as they are, without dots and underscores
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


def left_out_table(skipped: Sequence[Sequence[str]]) -> str:
    """Files that are not in the dataset, by reason, and one by one on demand."""
    if not skipped:
        return "<h2>Left out</h2><p>Nothing: every listed picture is in the dataset.</p>"

    def reason(group: LeftOut) -> str:
        whole = group.examples[0][1]
        more = "" if whole == group.reason else f"<small>such as: {escape(whole)}</small>"
        return escape(group.reason) + more

    def examples(group: LeftOut) -> str:
        return "<br>".join(code(file) for file, _ in group.examples)

    groups = [(f"{group.count:,}", reason(group), examples(group)) for group in left_out(skipped)]
    rows = [(code(file), escape(why)) for file, why in skipped[:LISTED]]
    more = len(skipped) - len(rows)
    rest = f'<p class="soft">and {more:,} more: all are in dataset.json</p>' if more else ""
    return (
        '<h2>Left out</h2><div class="card">'
        + table(("#Files", "Reason", "First of them"), groups)
        + f"<details><summary>{'The first' if more else 'All'} {len(rows):,} files</summary>"
        + f"{table(('File', 'Reason'), rows)}{rest}</details></div>"
    )


def made_with(manifest: dict[str, Any]) -> str:
    """The networks, and all other settings that the manifest holds."""
    others = {name: value for name, value in manifest.items() if name not in TOLD}
    networks, settings = [], [("resolution", f"{manifest['resolution']} px")]
    for prefix, group in (("encoders", manifest["encoders"]), ("", others)):
        for name, value in group.items():
            if isinstance(value, dict) and "id" in value:
                networks.append(_network(name, value))
            elif (prefix, name) != ("encoders", "toy"):  # said above, aloud
                settings += table_of(value, f"{prefix}.{name}" if prefix else name)
    used = ""
    if networks:
        used = table(("Network", "Weights", "Precision", "Settings"), networks)
        used = f'<div class="card">{used}</div><br>'
    cells = [
        (escape(_in_words(name)), code(VALUES.get((name, value), value)))
        for name, value in settings
    ]
    return f'<h2>Made with</h2>{used}<div class="card">{table(("Setting", "Value"), cells)}</div>'


def _network(name: str, about: dict[str, Any]) -> tuple[str, str, str, str]:
    kind = f" ({escape(str(about['kind']))})" if about.get("kind") else ""
    marks = "".join(
        f"<small>{mark} {code(about[mark])}</small>"
        for mark in ("revision", "sha256")
        if about.get(mark)
    )
    rest = table_of({k: v for k, v in about.items() if k not in COLUMNS})
    return (
        escape(NETWORKS.get(name, _in_words(name))),
        f"{code(about['id'])}{kind}{marks}",
        escape(str(about.get("dtype") or "")),
        "<br>".join(escape(f"{_in_words(k)}: {v}") for k, v in rest),
    )


def _in_words(name: str) -> str:
    return WORDS.get(name, re.sub("[._]", " ", name))


def shard_table(shards: Sequence[dict[str, Any]]) -> str:
    """Every shard, on demand."""
    rows = [
        (
            code(shard["name"]),
            f"{int(shard['samples']):,}",
            human_bytes(int(shard["bytes"])),
            code(shard["sha256"]),
        )
        for shard in shards
    ]
    listed = table(("Shard", "#Garments", "#Size", "sha256"), rows)
    return (
        f'<h2>Shards</h2><div class="card"><details><summary>{len(shards):,} shards with their '
        f"sha256</summary>{listed}</details></div>"
    )
