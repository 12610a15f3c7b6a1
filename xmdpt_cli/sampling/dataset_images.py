"""A whole test set: one PNG a pair, a contact sheet, and a record of how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.data.loader import PairDataset, PairRef, load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.encoders.vae import VAE
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import content, only_process, writing
from xmdpt_cli.images import ImageArray, load_image, save_png
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.report.contact_sheet import contact_sheet
from xmdpt_cli.sampling.batch_size import in_batches
from xmdpt_cli.sampling.compatibility import check_fit, token_notes
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.config import SamplingConfig
from xmdpt_cli.sampling.png_writer import Writer, png_text, whole_png
from xmdpt_cli.sampling.record import RECORD, read_record, refuse_others, write_record
from xmdpt_cli.sampling.sample_names import sample_names
from xmdpt_cli.sampling.sampler import Sampler
from xmdpt_cli.storage.ranks import World

SHEET = "sheet.png"
COLUMNS = ("source", "pose", "ground truth", "generated")
SHEET_ROWS = 16
_RECORD_LOCK = ".lock-record"  # parts that begin or end together write the record in turn


def generate(
    sampler: Sampler,
    dataset: PairDataset,
    vae: VAE,
    out: Path,
    config: SamplingConfig,
    *,
    limit: int | None = None,
    shard: World = World(),  # noqa: B008 - frozen
    batch_size: int = 8,
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate the dataset's pairs into ``out``; returns the record.

    Of ``shard.size`` processes that share the folder this one generates every ``size``-th pair.
    An image that is there and whole is not generated again, provided the folder was begun with the
    same model and config (else XmdptError). An image depends only on the seed and its pair, to the
    bit in batches of one size; another size rounds otherwise, by one level of 255 at most. The
    process that finds all images there writes the sheet and finishes the record (``finished``).
    """
    check_fit(sampler, dataset, vae)
    for note in token_notes(sampler, dataset):
        notify(note)
    record = _record(sampler, dataset, vae, config)
    pairs = dataset.pairs[:limit]
    names = sample_names(dataset.pairs)[:limit]
    mine = list(range(shard.rank, len(pairs), shard.size))
    size, finished = dataset.resolution, False
    with _locked_part(out, shard):
        with only_process(out, _RECORD_LOCK, wait=True):
            _begin(out, record)
        missing = _missing(out, names, pairs, mine, size)
        if missing:
            with only_process(out, _RECORD_LOCK, wait=True):
                write_record(out, record)  # no longer complete, if it was
        done = len(mine) - len(missing)
        progress("sample", done, len(mine))
        with Writer() as writer, _ConditionReader(dataset, sampler, missing) as reader:

            def run(indices: Sequence[int]) -> list[tuple[int, ImageArray]]:
                noise = start_noise(
                    sampler.model.latent_shape, config.seed, [pairs[i].position for i in indices]
                )
                latents = sampler.latents(noise, reader.conditions(indices), config)
                return list(zip(indices, vae.decode(latents), strict=True))

            for generated in in_batches(missing, batch_size, run, notify):
                for i, image in generated:
                    pair = {"pair": pairs[i].name(), "position": pairs[i].position}
                    writer.put(out / names[i], image, {**pair, **_in_metadata(record)})
                done += len(generated)
                progress("sample", done, len(mine))
        whole = not _missing(out, names, pairs, range(len(names)), size)
        if whole:
            with only_process(out, _RECORD_LOCK, wait=True):
                finished = _finish(out, record, names, dataset, pairs[:SHEET_ROWS])
    return {
        **record,
        "images": len(names) if whole else len(mine),
        "generated": len(missing),
        "complete": whole,
        "finished": finished,
        "sheet": str(out / SHEET) if whole else None,
    }


@contextmanager
def _locked_part(out: Path, shard: World) -> Iterator[None]:
    """Lock this part for this process; XmdptError if another process generates it, or the same
    images in other parts."""
    family = f"-of-{shard.size}"
    lock = ".lock" if shard.size == 1 else f".lock-{shard.rank}{family}"
    with only_process(out, lock):
        for other in out.glob(".lock*"):
            if other.name not in (lock, _RECORD_LOCK) and not other.name.endswith(family):
                with only_process(out, other.name):
                    pass  # a killed process left it
        yield


class _ConditionReader:
    """The conditions of a batch, read on a thread while the batch before is generated."""

    def __init__(self, dataset: PairDataset, sampler: Sampler, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.place = {index: place for place, index in enumerate(indices)}
        self.tokens = sampler.model.conditioning == "tokens"
        self.scale = float(sampler.metadata["encoders"]["vae"]["scale"])
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._next: tuple[list[int], Future[Conditions]] | None = None

    def conditions(self, indices: Sequence[int]) -> Conditions:
        wanted = list(indices)
        expected, found = self._next or ([], None)
        self._next = None
        # after a batch was halved another one is asked for than was read
        now = found.result() if found is not None and expected == wanted else self._read(wanted)
        start = self.place[wanted[-1]] + 1
        after = list(self.indices[start : start + len(wanted)])
        if after:
            self._next = (after, self._pool.submit(self._read, after))
        return now

    def _read(self, indices: list[int]) -> Conditions:
        batch = load_pairs(self.dataset, PairIndices.listed(indices), pose_maps=self.tokens)
        return Conditions.of_batch(batch, self.scale)

    def __enter__(self) -> _ConditionReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def blocks_for(rows: int) -> int:
    """Blocks side by side on a sheet of so many rows."""
    return 2 if rows > 4 else 1


def _in_metadata(record: dict[str, Any]) -> dict[str, Any]:
    """The part of the record that each PNG carries."""
    return {key: record[key] for key in ("sampling", "model", "vae", "trained_steps", "toy")}


def _record(
    sampler: Sampler, dataset: PairDataset, vae: VAE, config: SamplingConfig
) -> dict[str, Any]:
    """What decides the images: resuming with another one would mix them."""
    return {
        "format": "xmdpt-samples",
        **sampler.described(config, vae),
        "conditioning": sampler.model.conditioning,
        "data": [s["sha256"] for s in dataset.manifest["shards"] if s["split"] == dataset.split],
        "split": dataset.split,
        "toy": bool(sampler.metadata["toy"] or dataset.manifest["toy"]),
    }


def _begin(out: Path, record: dict[str, Any]) -> None:
    if (out / RECORD).is_file():
        refuse_others(out, read_record(out), record)
    elif any(not name.startswith((".lock", RECORD)) for name in content(out)):
        raise XmdptError(f"{out} is not empty and holds no samples", "choose another --out")
    else:
        write_record(out, record)


def _finish(
    out: Path,
    record: dict[str, Any],
    names: list[str],
    dataset: PairDataset,
    pairs: Sequence[PairRef],
) -> bool:
    """The sheet, and that all is there; False if the record says so already."""
    if (out / SHEET).is_file() and set(names) <= set(read_record(out).get("complete", ())):
        return False
    rows = []
    for pair, name in zip(pairs, names, strict=False):
        rows.append(
            [
                dataset.image(pair.key, pair.source),
                dataset.pose_map(pair.key, pair.target),
                dataset.image(pair.key, pair.target),
                np.asarray(load_image(out / name)),
            ]
        )
    with writing(out / SHEET):
        save_png(
            out / SHEET,
            contact_sheet(rows, COLUMNS, blocks=blocks_for(len(rows))),
            png_text(_in_metadata(record)),
        )
    write_record(out, {**record, "complete": names})
    return True


def _missing(
    out: Path, names: Sequence[str], pairs: Sequence[PairRef], which: Sequence[int], size: int
) -> list[int]:
    """Those of ``which`` whose image is not there, or not whole.

    XmdptError for an image that says of itself that it is of another pair, or nothing.
    """
    there = {path.name for path in out.iterdir()}

    def whole(i: int) -> bool:
        data = whole_png(out / names[i], size) if names[i] in there else None
        if data is not None and f'"pair": {json.dumps(pairs[i].name())}'.encode() not in data:
            raise XmdptError(
                f"{out / names[i]} is not the generated image of its pair",
                "delete it: the same command makes it again",
            )
        return data is not None

    with ThreadPoolExecutor(thread_name_prefix="check") as pool:
        return [i for i, ok in zip(which, pool.map(whole, which), strict=True) if not ok]
