"""The keypoints of a prepared dataset, for writing them back in the published formats."""

from __future__ import annotations

from collections.abc import Iterator

from xmdpt_cli.data.index import read_index
from xmdpt_cli.data.manifest import read_manifest
from xmdpt_cli.data.shard_reader import parse_keypoints
from xmdpt_cli.datasets.export import AnnotationRow
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.storage.stores import Store
from xmdpt_cli.utils.deepfashion_names import ImageName, parse_name


def keypoint_rows(store: Store) -> Iterator[AnnotationRow]:
    """(split, name or path below the root, fractions (18, 2) with NaN for missing) an image."""
    manifest = read_manifest(store)
    for shard in manifest["shards"]:
        index = read_index(store, shard["name"])
        if index is None:
            raise _damaged(store, shard["name"], "is missing or cut short")
        for sample in index.samples:
            for place in sample.views.values():
                data = store.read_range(index.name, *place.keypoints)
                try:
                    points = parse_keypoints(data)
                except ValueError as err:
                    raise _damaged(store, index.name, f"holds damaged keypoints ({err})") from None
                yield index.split, _name(place.file), points / float(manifest["resolution"])


def _damaged(store: Store, shard: str, what: str) -> XmdptError:
    return XmdptError(f"{store.url}/{shard} {what}", f"xmdpt prepare --check {store.url}")


def _name(file: str) -> ImageName | str:
    try:
        return parse_name(file)
    except XmdptError:
        return file
