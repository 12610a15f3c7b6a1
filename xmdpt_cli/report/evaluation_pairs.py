"""The worst and best pairs of an evaluation, shown on its page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from xmdpt_cli.errors import XmdptError
from xmdpt_cli.images import ImageArray, png_bytes
from xmdpt_cli.metrics.evaluation import Evaluation, ImageValues
from xmdpt_cli.report.metric_values import (
    Heading,
    column,
    heading,
    main_row,
    per_pair,
    shown,
    style,
)
from xmdpt_cli.report.pages import data_uri

Images = Callable[[str], Mapping[str, ImageArray]]

SHOWN = 6  # pairs at either end
LARGEST = 256  # pixels of an image's longer side; larger ones are reduced
MOST_BYTES = 32_000  # of an image, if a lower quality can do it


@dataclass(frozen=True)
class Shot:
    """One image of a pair."""

    kind: str  # "source", "generated", ...
    width: int
    height: int
    source: str  # a data URI


@dataclass(frozen=True)
class ShownPair:
    name: str
    values: list[str]  # the metric that it is ranked by first
    shots: Sequence[Shot]
    error: str | None  # why there are no images


@dataclass(frozen=True)
class Ranking:
    """The pairs at both ends of a metric."""

    metric: Heading
    sides: list[tuple[str, list[ShownPair]]]


def ranked_pairs(evaluation: Evaluation, images: Images) -> list[Ranking]:
    """Worst beside best by a SSIM and by LPIPS; empty where pairs have no values.

    ``images`` is called once for each pair shown.
    """
    shape = _compared_size(evaluation)

    @cache
    def shots(name: str) -> tuple[Sequence[Shot], str | None]:
        try:
            found = images(name)
        except XmdptError as err:
            return (), err.message
        return [_shot(kind, image, shape) for kind, image in found.items()], None

    def shown_pair(place: int, metric: str) -> ShownPair:
        image = evaluation.images[place]
        return ShownPair(image["name"], _values(evaluation, image, metric), *shots(image["name"]))

    rankings = []
    for metric in ranked_metrics(evaluation):
        low, high = ranking(evaluation, metric)
        ends = {"Worst": low, "Best": high} if high else {"The only pair with a value": low}
        sides = [(name, [shown_pair(i, metric) for i in places]) for name, places in ends.items()]
        rankings.append(Ranking(heading(metric, evaluation), sides))
    return rankings


def ranked_metrics(evaluation: Evaluation) -> list[str]:
    """What to rank pairs by: a SSIM and LPIPS, else the first metric with a known direction."""
    main = main_row(evaluation)
    ranked = [
        metric
        for metric in per_pair([evaluation])
        if style(metric).higher is not None and not np.isnan(column(evaluation, main, metric)).all()
    ]
    ssim = [name for name in ("ssim_256", "ssim", "ssim_w51") if name in ranked][:1]
    lpips = [metric for metric in ranked if metric.startswith("lpips")][:1]
    return ssim + lpips or ranked[:1]


def ranking(evaluation: Evaluation, metric: str) -> tuple[list[int], list[int]]:
    """Pairs, as places in ``evaluation.images``: the worst, worst first, and the best, best first.

    No pair is in both lists; pairs without a value are in neither. Equal values keep the order of
    the evaluation.
    """
    values = column(evaluation, main_row(evaluation), metric)
    known = np.flatnonzero(~np.isnan(values))
    signed = values[known] if style(metric).higher else -values[known]
    worst = known[np.argsort(signed, kind="stable")].tolist()
    best = known[np.argsort(-signed, kind="stable")].tolist()
    low = worst[: min(SHOWN, -(-len(worst) // 2))]
    high = [i for i in best if i not in low][:SHOWN]
    return low, high


def _values(evaluation: Evaluation, image: ImageValues, ranked: str) -> list[str]:
    """The ranked metric first, then the others, then the joints."""
    row = image["rows"].get(main_row(evaluation), {})
    rest = [metric for metric in per_pair([evaluation]) if metric != ranked and metric in row]
    values = [f"{metric} {shown(metric, row[metric])}" for metric in (ranked, *rest)]
    joints = image.get("joints")
    return values if joints is None else [*values, f"{joints} joints"]


def _compared_size(evaluation: Evaluation) -> tuple[int, int] | None:
    """(height, width) that all images had in the comparison, None where they differ.

    Generated squares are squashed; the compared size restores the proportions of the person.
    """
    sizes = evaluation.sizes
    found = re.fullmatch(r"(\d+)x(\d+)", sizes[0]) if len(sizes) == 1 else None
    return None if found is None else (int(found[2]), int(found[1]))


def _shot(kind: str, image: ImageArray, shape: tuple[int, int] | None) -> Shot:
    smaller = _bounded(image, shape)
    height, width = smaller.shape[:2]
    return Shot(kind, width, height, _small_uri(smaller))


def _bounded(image: ImageArray, shape: tuple[int, int] | None) -> ImageArray:
    """In the proportions of ``shape``, at most LARGEST pixels high and wide."""
    height, width = shape or image.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _small_uri(image: ImageArray) -> str:
    """The smaller of a PNG (poses) and a JPEG (photographs) without chroma subsampling."""
    kind, data = "png", png_bytes(image)
    for quality in (90, 75, 60, 40):
        stream = io.BytesIO()
        # not optimize=True: Pillow then fails where a JPEG needs more bytes than it has pixels
        Image.fromarray(image).save(stream, format="JPEG", quality=quality, subsampling=0)
        if stream.tell() < len(data):
            kind, data = "jpeg", stream.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return data_uri(kind, data)
