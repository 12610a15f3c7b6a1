"""Copies a dataset behind a URL to a local folder once, so that it is read as a local one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmdpt_cli.data.index import index_name, read_index
from xmdpt_cli.data.manifest import MANIFEST, SETTINGS, read_manifest
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process, sha256_of, writing
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.storage.stores import LocalStore, Store, open_store
from xmdpt_cli.utils.records import COPY_AGAIN

CHUNK = 8 * 2**20  # bytes a request


def fetch_dataset(place: str | Path, folder: Path, progress: Progress = silent) -> Path:
    """Copy the dataset at ``place`` into ``folder``; returns the folder to read it from.

    A local ``place`` is returned as it is. Shards are checked against the sizes and SHA-256 of
    dataset.json, which is written last. An interrupted copy resumes at the byte where it stopped.
    Several processes may call this: one copies, the others wait. ``progress`` counts bytes.

    Raises XmdptError if a file cannot be read or differs from dataset.json, or if ``folder`` holds
    another dataset.
    """
    store = open_store(place)
    if store.folder is not None:
        return store.folder
    manifest, local = read_manifest(store), LocalStore(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with only_process(folder, wait=True):
            if local.size(MANIFEST) is not None and read_manifest(local) != manifest:
                raise XmdptError(
                    f"{folder} holds another dataset than {store.url}",
                    "choose another --data-cache, or remove that folder",
                )
            total, done = sum(int(shard["bytes"]) for shard in manifest["shards"]), 0
            for shard in manifest["shards"]:
                _fetch_shard(store, local, shard)
                done += int(shard["bytes"])
                progress("fetch", done, total, shard=shard["name"])
            for name in (SETTINGS, MANIFEST):
                if local.size(name) is None and store.size(name) is not None:
                    local.write(name, store.read(name))
    return folder


def _fetch_shard(store: Store, local: LocalStore, shard: dict[str, Any]) -> None:
    """Copy one shard and then its index, which marks it as complete."""
    name, size, sha256 = str(shard["name"]), int(shard["bytes"]), str(shard["sha256"])
    index = read_index(local, name)
    if index is not None and index.sha256 == sha256:
        return
    part = local.folder / f"{name}.part"
    with open(part, "ab") as file:
        while file.tell() < size:
            data = store.read_range(name, file.tell(), min(CHUNK, size - file.tell()))
            if not data:
                break
            file.write(data)
    if sha256_of(part) != sha256:
        part.unlink()
        raise XmdptError(f"{store.url}/{name} is not the shard that {MANIFEST} lists", COPY_AGAIN)
    local.put(part, name)
    local.write(index_name(name), store.read(index_name(name)))
