"""The keypoints of a prepared dataset, for writing them back in the published formats."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from xmdpt_cli.data.export import AnnotationRow
from xmdpt_cli.data.index import read_index
from xmdpt_cli.data.manifest import read_manifest
from xmdpt_cli.data.names import ImageName, parse_name
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.stores import Store


def keypoint_rows(store: Store) -> Iterator[AnnotationRow]:
    """(split, name or path below the root, fractions (18, 2) with NaN for missing) a picture."""
    manifest = read_manifest(store)
    for shard in manifest["shards"]:
        index = read_index(store, shard["name"])
        if index is None:
            raise XmdptError(
                f"{store.url}/{shard['name']} is missing or cut short",
                f"xmdpt prepare --check {store.url}",
            )
        for sample in index.samples:
            for place in sample.views.values():
                points = np.load(io.BytesIO(store.read_range(index.name, *place.keypoints)))
                yield index.split, _name(place.file), points / float(manifest["resolution"])


def _name(file: str) -> ImageName | str:
    try:
        return parse_name(file)
    except XmdptError:
        return file
