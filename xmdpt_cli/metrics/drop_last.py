"""The last partial batch, which PIDM's and PCDMs' published evaluators leave out of some metrics.

They work through whole batches only: of 8,570 pairs PIDM's FID and LPIPS see 8,512 (batches of
64), PCDMs' FID 8,448 (batches of 128) and its LPIPS 8,512; of the 48,674 images of the reference
set both FIDs see 48,640. The other metrics see all. Which pairs are left out follows from the
order: by name for LPIPS, as published; FID there takes the order of the file system, which is no
order that can be had again, so here it is by name too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def whole_batches(count: int, batch: int) -> int:
    """How many of ``count`` the whole batches hold; all, where there is no whole one."""
    return count - count % batch if count >= batch else count


def left_out(names: Sequence[str], batch: int) -> list[int]:
    """The places in ``names`` of those that come, by name, after the last whole batch."""
    ordered = sorted(range(len(names)), key=names.__getitem__)
    return ordered[whole_batches(len(ordered), batch) :]


def dropped(batch: int, names: Sequence[str], out: Sequence[int]) -> dict[str, Any]:
    """An entry of ``Evaluation.drop_last``."""
    return {
        "batch_size": batch,
        "used": len(names) - len(out),
        "of": len(names),
        "dropped": [names[place] for place in out],
    }


def note(metric: str, dropped: Mapping[str, Any]) -> str:
    """An entry of ``Evaluation.drop_last`` in words."""
    said = f"{metric} is of {dropped['used']:,} of {dropped['of']:,} pairs"
    if "reference_of" in dropped:
        used, of = dropped["reference_used"], dropped["reference_of"]
        said += f" and {used:,} of {of:,} images of the reference set"
    return f"{said}: the last partial batch of {dropped['batch_size']} is dropped"
