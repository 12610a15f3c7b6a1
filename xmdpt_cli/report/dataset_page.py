"""The report's page: one HTML file that needs nothing else, readable by day, night and printer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from xmdpt_cli.files import human_bytes
from xmdpt_cli.pose.keypoints import JOINTS
from xmdpt_cli.report.charts import bars, histogram, legend
from xmdpt_cli.report.dataset_numbers import SplitFacts
from xmdpt_cli.report.dataset_sheet import Strip
from xmdpt_cli.report.dataset_tables import left_out_table, made_with, shard_table
from xmdpt_cli.report.html import document, tiles


def page(manifest: dict[str, Any], splits: Sequence[SplitFacts], strips: Sequence[Strip]) -> str:
    """The whole HTML document; the same facts and strips give the same text."""
    sections = [
        _header(manifest, splits),
        *(_pairs(facts, [s for s in strips if s.split == facts.name]) for facts in splits),
        _garments(splits),
        _joints(splits),
        left_out_table(manifest["skipped"]),
        made_with(manifest),
        shard_table(manifest["shards"]),
    ]
    return document("Prepared dataset", sections)


def _header(manifest: dict[str, Any], splits: Sequence[SplitFacts]) -> str:
    def by_split(what: str) -> str:
        return " · ".join(f"{getattr(facts, what):,} {facts.name}" for facts in splits)

    size = sum(int(shard["bytes"]) for shard in manifest["shards"])
    cells = [
        (f"{sum(getattr(facts, what) for facts in splits):,}", what, by_split(what))
        for what in ("pairs", "garments", "images")
    ]
    pixels = int(manifest["resolution"])
    cells.append((f"{pixels} px", "resolution", "squashed to squares"))
    cells.append((human_bytes(size), "in shards", f"{len(manifest['shards']):,} files"))
    skipped = len(manifest["skipped"])
    cells.append((f"{skipped:,}", "files left out", "why: see below" if skipped else "none"))
    toy = (
        '<p class="toy"><strong>Toy encoders.</strong> The features were computed by small '
        "networks made for trying things out. A model trained on them says nothing about the "
        "method: prepare with pretrained encoders for results.</p>"
        if manifest.get("toy")
        else ""
    )
    return (
        "<h1>Prepared dataset</h1>"
        '<p class="soft">What training will be given. Look at the pairs, then at the joints.</p>'
        f"{toy}{tiles(cells)}"
    )


def _pairs(facts: SplitFacts, strips: Sequence[Strip]) -> str:
    figures = []
    for strip in strips:
        data = base64.b64encode(strip.jpeg()).decode()
        height, width = strip.image.shape[:2]
        name = escape(f"{strip.key}, {strip.views}")
        joints = f"{strip.source_joints} and {strip.target_joints} joints"
        figures.append(
            f'<figure><img width="{width}" height="{height}" alt="{name}" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(strip.key)} '
            f"<span>{escape(strip.views)} · {joints}</span></figcaption></figure>"
        )
    return (
        f"<h2>{escape(facts.name.capitalize())} pairs</h2>"
        f'<p class="soft">{len(strips)} of {facts.pairs:,}, evenly spread over the list: source, '
        "its joints, target, its joints. Joints should lie on the body, left and right limbs in "
        "the same colours throughout, and both pictures should show the same clothes.</p>"
        f'<div class="pairs">{"".join(figures)}</div>'
    )


def _garments(splits: Sequence[SplitFacts]) -> str:
    names = [facts.name for facts in splits]
    charts = (
        ("Views per garment", [facts.views_per_garment for facts in splits]),
        ("Pairs per garment", [facts.pairs_per_garment for facts in splits]),
    )
    cards = "".join(
        _chart(title, histogram(names, counters, "garments") + legend(names))
        for title, counters in charts
    )
    return f'<h2>Garments</h2><div class="two">{cards}</div>'


def _joints(splits: Sequence[SplitFacts]) -> str:
    names = [facts.name for facts in splits]
    images = sum(facts.images for facts in splits)
    counters = [facts.joints_per_image for facts in splits]
    found = histogram(names, counters, "images", range(len(JOINTS) + 1), height=360)
    seen = [sum(facts.seen[joint] for facts in splits) for joint in range(len(JOINTS))]
    labels = [name.replace("_", " ") for name in JOINTS]
    empty = sum(facts.joints_per_image[0] for facts in splits)
    note = (
        f"<p>{empty:,} images have no joint at all: their pose picture is black.</p>"
        if empty
        else ""
    )
    cards = _chart("Joints found per image, of 18", found + legend(names) + note)
    cards += _chart("Images in which each joint was found", bars(labels, seen, images, "images"))
    return f'<h2>Joints</h2><div class="two">{cards}</div>'


def _chart(title: str, inner: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{inner}</div>'
