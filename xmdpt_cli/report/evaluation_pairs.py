"""The page's worst and best pairs: what a number looks like."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import Picture, png_bytes
from xmdpt_cli.metrics.evaluation import Evaluation
from xmdpt_cli.report.metric_values import arrow, column, main_row, per_pair, shown, style

Pictures = Callable[[str], Mapping[str, Picture]]

SHOWN = 6  # pairs at either end
LARGEST = 256  # pixels of a picture's longer side; larger ones are reduced
MOST_BYTES = 32_000  # of a picture, if a lower quality can do it


def pairs_section(report: Evaluation, pictures: Pictures) -> str:
    """Worst beside best by a SSIM and by LPIPS; nothing where pairs have no values."""
    show = _Shown(report, pictures)
    parts = [show.ends(metric) for metric in ranked_metrics(report)]
    return "".join(parts)


def ranked_metrics(report: Evaluation) -> list[str]:
    """What to rank pairs by: a SSIM and LPIPS, else the first metric that knows a better way."""
    main = main_row(report)
    there = [
        metric
        for metric in per_pair([report])
        if style(metric).higher is not None
        and not np.isnan(column(report, main, metric).values).all()
    ]
    ssim = [m for name in ("ssim_256", "ssim", "ssim_w51") for m in there if m == name][:1]
    lpips = [m for m in there if m.startswith("lpips")][:1]
    return ssim + lpips or there[:1]


def ranking(report: Evaluation, metric: str) -> tuple[list[int], list[int]]:
    """Pairs, as places in ``report.images``: the worst, worst first, and the best, best first.

    No pair is in both lists, and none without a value is in either; of equal ones the first in
    the report come first.
    """
    values = column(report, main_row(report), metric).values
    known = np.flatnonzero(~np.isnan(values))
    signed = values[known] if style(metric).higher else -values[known]
    worst = known[np.argsort(signed, kind="stable")].tolist()
    best = known[np.argsort(-signed, kind="stable")].tolist()
    low = worst[: min(SHOWN, -(-len(worst) // 2))]
    high = [i for i in best if i not in low][:SHOWN]
    return low, high


class _Shown:
    """Pairs as HTML; their pictures are asked for once each."""

    def __init__(self, report: Evaluation, pictures: Pictures) -> None:
        self.report, self.pictures = report, pictures
        self.main = main_row(report)
        self.metrics = per_pair([report])
        self.strips: dict[str, str] = {}
        self.shape = _compared(report)

    def ends(self, metric: str) -> str:
        low, high = ranking(self.report, metric)
        sides = [("Worst", low), ("Best", high)] if high else [("The only pair with a value", low)]
        columns = "".join(
            f"<div><h3>{name}</h3>{''.join(self.pair(i, metric) for i in places)}</div>"
            for name, places in sides
        )
        heading = f"Worst and best by {escape(metric)}&nbsp;{arrow(metric)}"
        return f'<h2>{heading}</h2><div class="two ends">{columns}</div>'

    def pair(self, place: int, ranked: str) -> str:
        image = self.report.images[place]
        name = str(image["name"])
        if name not in self.strips:
            self.strips[name] = strip(name, self.pictures, self.shape)
        return (
            f'<figure class="pair">{self.strips[name]}<figcaption>{escape(name)}'
            f"<small>{self.values(image, ranked)}</small></figcaption></figure>"
        )

    def values(self, image: Mapping[str, Any], ranked: str) -> str:
        row = image["rows"].get(self.main, {})
        rest = [metric for metric in self.metrics if metric != ranked and metric in row]
        told = [f"<b>{escape(ranked)} {shown(ranked, row[ranked])}</b>"]
        told += [f"{escape(metric)} {shown(metric, row[metric])}" for metric in rest]
        if image.get("joints") is not None:
            told.append(f"{int(image['joints'])} joints")
        return " · ".join(f"<span>{one}</span>" for one in told)


def _compared(report: Evaluation) -> tuple[int, int] | None:
    """(height, width) of all pictures as they were compared: squashed to a square, as this field's
    models draw, a figure cannot be judged. None where they differ."""
    found = re.fullmatch(r"(\d+)x(\d+)", report.sizes[0]) if len(report.sizes) == 1 else None
    return None if found is None else (int(found[2]), int(found[1]))


def strip(name: str, pictures: Pictures, shape: tuple[int, int] | None) -> str:
    """A pair's pictures side by side, or why there are none; all in the proportions of ``shape``
    (height, width), in which they were compared, or each as it is."""
    try:
        found = pictures(name)
    except XmdptError as err:
        return f'<p class="none">No pictures: {escape(err.message)}</p>'
    return f'<div class="shots">{"".join(_shot(k, p, name, shape) for k, p in found.items())}</div>'


def _shot(kind: str, picture: Picture, name: str, shape: tuple[int, int] | None) -> str:
    smaller = _bounded(picture, shape)
    height, width = smaller.shape[:2]
    return (
        f'<div><img width="{width}" height="{height}" loading="lazy" decoding="async" '
        f'alt="{escape(f"{kind} of {name}")}" src="{_data_uri(smaller)}">{escape(kind)}</div>'
    )


def _bounded(picture: Picture, shape: tuple[int, int] | None) -> Picture:
    height, width = shape or picture.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _data_uri(picture: Picture) -> str:
    """The smaller of a PNG (drawn poses) and a JPEG (photographs) without subsampled colour."""
    kind, data = "png", png_bytes(picture)
    for quality in (90, 75, 60, 40):
        stream = io.BytesIO()
        # not optimize=True: Pillow then fails where a JPEG needs more bytes than it has pixels
        Image.fromarray(picture).save(stream, format="JPEG", quality=quality, subsampling=0)
        if stream.tell() < len(data):
            kind, data = "jpeg", stream.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
