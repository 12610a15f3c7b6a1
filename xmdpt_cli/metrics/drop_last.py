"""The last partial batch, which PIDM's and PCDMs' published evaluators leave out of some metrics.

They evaluate full batches only: of 8,570 pairs PIDM's FID and LPIPS see 8,512 (batches of
64), PCDMs' FID 8,448 (batches of 128) and its LPIPS 8,512; of the 48,674 images of the reference
set both FIDs see 48,640. The other metrics see all. Which pairs are left out follows from the
order: by name for LPIPS, as published. The published FID takes the order of the file system, which
cannot be reproduced, so FID is by name here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def full_batches(count: int, batch: int) -> int:
    """The number of items in complete batches; ``count`` if there is no complete batch."""
    return count - count % batch if count >= batch else count


def left_out(names: Sequence[str], batch: int) -> list[int]:
    """The indices in ``names`` of the items after the last full batch, sorted by name."""
    ordered = sorted(range(len(names)), key=names.__getitem__)
    return ordered[full_batches(len(ordered), batch) :]


def dropped(batch: int, names: Sequence[str], out: Sequence[int]) -> dict[str, Any]:
    """An entry of ``Evaluation.drop_last``."""
    return {
        "batch_size": batch,
        "used": len(names) - len(out),
        "of": len(names),
        "dropped": [names[place] for place in out],
    }


def note(metric: str, dropped: Mapping[str, Any]) -> str:
    """An entry of ``Evaluation.drop_last`` as a sentence."""
    text = f"{metric} is of {dropped['used']:,} of {dropped['of']:,} pairs"
    if "reference_of" in dropped:
        used, of = dropped["reference_used"], dropped["reference_of"]
        text += f" and {used:,} of {of:,} images of the reference set"
    return f"{text}: the last partial batch of {dropped['batch_size']} is dropped"
