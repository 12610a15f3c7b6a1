"""The registry of metrics: how tables show them, and metrics of other packages.

A metric of your own is a subclass of ``PairMetric`` (or ``ImageMetric``). ``register`` it, or name
it in your package's metadata, and ``xmdpt evaluate`` measures it beside the others::

    [project.entry-points."xmdpt_cli.metrics"]
    brightness = "my_package.metrics:Brightness"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:
    from xmdpt_cli.metrics.base import ImageMetric

M = TypeVar("M", bound="type[ImageMetric]")

ENTRY_POINTS = "xmdpt_cli.metrics"


class Style(NamedTuple):
    """How tables show a metric."""

    higher: bool | None  # whether higher is better; None: not known
    digits: int  # decimals shown


_NETWORKS = ("tvinception", "tvinception_toy", "tfinception", "tfinception_toy", "toyconv")

#: in the order of the tables
METRICS: dict[str, Style] = {
    **{f"fid_{network}": Style(False, 4) for network in _NETWORKS},
    **{f"kid_{network}": Style(False, 5) for network in _NETWORKS},
    "lpips_alex_v0.1": Style(False, 4),
    "lpips_alex_v0.1_unsigned": Style(False, 4),
    "lpips_alex_v0.1_toy": Style(False, 4),
    "lpips_alex_v0.1_toy_unsigned": Style(False, 4),
    "ssim_w51": Style(True, 4),
    "ssim_256": Style(True, 4),
    "ssim": Style(True, 4),
    "psnr": Style(True, 2),
    "l1": Style(False, 4),
    "mae": Style(False, 4),
}

_registered: dict[str, type[ImageMetric]] = {}


def describe(metric: M) -> M:
    """Add the metric to the tables, after the known ones."""
    METRICS.setdefault(metric.name, Style(bool(metric.higher_is_better), metric.decimals))
    return metric


def register(metric: M) -> M:
    """Let ``xmdpt evaluate`` measure this metric too; also as a decorator.

    Its constructor takes ``resize=``. XmdptError if another metric has its name.
    """
    known = _registered.get(metric.name)
    if known is None and metric.name in METRICS:
        raise XmdptError(f"there is a metric named {metric.name} already", "choose another name")
    if known not in (None, metric):
        raise XmdptError(f"two metrics are named {metric.name}: {known} and {metric}")
    _registered[metric.name] = metric
    return describe(metric)


def registered() -> list[type[ImageMetric]]:
    """All registered metrics, those of installed packages included."""
    for point in entry_points(group=ENTRY_POINTS):
        register(point.load())
    return list(_registered.values())
