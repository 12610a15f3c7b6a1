"""One line per image, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from xmdpt_cli.files import write_bytes
from xmdpt_cli.metrics.evaluation import Evaluation, Value
from xmdpt_cli.report.metric_values import per_pair


def write_csv(path: str | Path, evaluations: Sequence[Evaluation]) -> None:
    """Columns ``protocol,row,name,joints`` and every metric that pairs have, as RFC 4180 in UTF-8.

    Numbers are the shortest that read back as the same double; ``inf`` where a value is infinite,
    nothing where it is not defined or the number of joints is not known. Written under a temporary
    name and renamed.
    """
    metrics = per_pair(evaluations)
    stream = io.StringIO(newline="")
    lines = csv.writer(stream)
    lines.writerow(["protocol", "row", "name", "joints", *metrics])
    for evaluation in evaluations:
        rows = dict.fromkeys(name for image in evaluation.images for name in image["rows"])
        for row in rows:
            for image in evaluation.images:
                if row not in image["rows"]:
                    continue
                values = image["rows"][row]
                # The name stays as it is, even where it begins with = + - or @ and a spreadsheet
                # takes it for a formula: it is the key that joins these lines to the images'
                # files, quotes do not stop a spreadsheet, and any mark before it would silently
                # make it another name. Import such a file with that column as text.
                cells = [_cell(values.get(metric)) for metric in metrics]
                joints = image.get("joints")  # csv writes None as nothing
                lines.writerow([evaluation.protocol, row, image["name"], joints, *cells])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a file name may contain bytes that are not UTF-8
    write_bytes(path, stream.getvalue().encode("utf-8", "backslashreplace"))


def _cell(value: Value) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))
