"""The registry of metrics: how tables show them, and metrics of other packages.

A metric of your own is a subclass of ``PairMetric`` (or ``ImageMetric``). ``register`` it, or name
it in your package's metadata, and ``xmdpt evaluate`` measures it beside the others::

    [project.entry-points."xmdpt_cli.metrics"]
    brightness = "my_package.metrics:Brightness"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from xmdpt_cli.errors import XmdptError

if TYPE_CHECKING:
    from xmdpt_cli.metrics.base import ImageMetric

M = TypeVar("M", bound="type[ImageMetric]")

ENTRY_POINTS = "xmdpt_cli.metrics"

# In the order of the table: higher is better?, decimals shown.
METRICS: dict[str, tuple[bool, int]] = {
    "fid_tvinception": (False, 4),
    "fid_tvinception_toy": (False, 4),
    "fid_tfinception": (False, 4),
    "fid_tfinception_toy": (False, 4),
    "fid_toyconv": (False, 4),
    "kid_tvinception": (False, 5),
    "kid_tvinception_toy": (False, 5),
    "kid_tfinception": (False, 5),
    "kid_tfinception_toy": (False, 5),
    "kid_toyconv": (False, 5),
    "lpips_alex_v0.1": (False, 4),
    "lpips_alex_v0.1_unsigned": (False, 4),
    "lpips_alex_v0.1_toy": (False, 4),
    "lpips_alex_v0.1_toy_unsigned": (False, 4),
    "ssim_w51": (True, 4),
    "ssim_256": (True, 4),
    "ssim": (True, 4),
    "psnr": (True, 2),
    "l1": (False, 4),
    "mae": (False, 4),
}

_registered: dict[str, type[ImageMetric]] = {}


def describe(metric: M) -> M:
    """Add the metric to the tables, after the known ones."""
    METRICS.setdefault(metric.name, (bool(metric.higher_is_better), metric.decimals))
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
