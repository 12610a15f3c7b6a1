"""The pairs of a prepared dataset: one PNG each, a contact sheet, and a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from xmdpt_cli.data.dataset import CONNECTIONS, PairDataset
from xmdpt_cli.data.loader import load_pairs
from xmdpt_cli.data.sampler import PairIndices
from xmdpt_cli.data.table import PairRef
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.encoders.decoder import Decoder
from xmdpt_cli.encoders.identity import encoder_difference
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import content, only_process
from xmdpt_cli.images import load_image
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling import hub
from xmdpt_cli.sampling.batch_size import batch_and_compile, fit_memory
from xmdpt_cli.sampling.conditioning import Conditions
from xmdpt_cli.sampling.encoders import vae_for
from xmdpt_cli.sampling.generation import generate_batches
from xmdpt_cli.sampling.png_writer import Writer, whole_png
from xmdpt_cli.sampling.record import (
    RECORD,
    SHEET,
    SHEET_ROWS,
    read_record,
    refuse_others,
    save_sheet,
    write_record,
)
from xmdpt_cli.sampling.sample_names import sample_names
from xmdpt_cli.sampling.sampler import Sampler, SamplingConfig
from xmdpt_cli.storage.ranks import World
from xmdpt_cli.utils.prefetch import prefetch

COLUMNS = ("source", "pose", "ground truth", "generated")
_RECORD_LOCK = ".lock-record"  # held by the part that reads or writes the record


def generate(
    sampler: Sampler,
    dataset: PairDataset,
    vae: Decoder,
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

    ``limit``: only the first pairs. ``shard``: of ``size`` processes that share the folder this one
    generates every ``size``-th pair. An existing complete image is not generated again, provided
    the folder was started with the same model and config (else XmdptError). An image depends only
    on the seed and its pair: to the bit in batches of one size, up to one level of 255 in others.
    The process that finds all images complete writes the sheet and the final record (``finished``).
    """
    check_compatible(sampler, dataset, vae)
    record = _record(sampler, dataset, vae, config)
    pairs, names = dataset.pairs[:limit], sample_names(dataset.pairs)[:limit]
    own = range(shard.rank, len(pairs), shard.size)
    finished = False
    with _locked_part(out, shard):
        with only_process(out, _RECORD_LOCK, wait=True):
            _start(out, record)
        missing = _missing(out, names, pairs, own, dataset.resolution)
        if missing:
            with only_process(out, _RECORD_LOCK, wait=True):
                write_record(out, record)  # no longer complete
        done = len(own) - len(missing)
        progress("sample", done, len(own))
        with Writer() as writer, _inputs_of(missing, sampler, dataset, config, batch_size) as read:
            for i, image in generate_batches(
                sampler, vae, missing, read, config, batch_size=batch_size, notify=notify
            ):
                pair = {"pair": pairs[i].name(), "position": pairs[i].position}
                writer.put(out / names[i], image, {**pair, **_png_metadata(record)})
                done += 1
                progress("sample", done, len(own))
        complete = not _missing(out, names, pairs, range(len(names)), dataset.resolution)
        if complete:
            with only_process(out, _RECORD_LOCK, wait=True):
                finished = _finish(out, record, names, dataset)
    return {
        **record,
        "images": len(names) if complete else len(own),
        "generated": len(missing),
        "complete": complete,
        "finished": finished,
        "sheet": str(out / SHEET) if complete else None,
    }


def generate_with(
    model: str,
    data: str,
    out: Path,
    *,
    sampling: Mapping[str, Any],
    split: str = "test",
    vae: str | None = None,
    device: str = "cpu",
    precision: str = "auto",
    compile_: str = "auto",
    batch_size: int | None = None,
    max_memory: int | None = None,
    limit: int | None = None,
    shard: World = World(),  # noqa: B008 - frozen
    progress: Progress = silent,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """``generate`` with a model (run, model folder or hub id) and the dataset in ``data``.

    ``sampling``: arguments of ``Sampler.sampling_config``. ``batch_size``: None for what fits in
    ``max_memory`` bytes, or in the device's free memory.
    """
    sampler = Sampler.load(hub.fetch(model), device, precision)
    dataset = PairDataset(data, split)
    decoder = vae_for(sampler, dataset, vae)
    config = sampler.sampling_config(**sampling)
    most = fit_memory(sampler, decoder, max_memory, dataset.resolution)
    count = -(-len(dataset.pairs[:limit]) // shard.size)
    batch = batch_and_compile(sampler, batch_size or most, count, config.steps, compile_)
    if sampler.compiled:  # a test set is worth compiling the decoder, too
        decoder.compile_decoder(batch)
    return generate(
        sampler, dataset, decoder, out, config, limit=limit, shard=shard, batch_size=batch,
        progress=progress, notify=notify,
    )  # fmt: skip


def check_features(sampler: Sampler, dataset: PairDataset) -> None:
    """XmdptError if the dataset has other features than those that the model was trained on."""
    metadata, manifest = sampler.metadata, dataset.manifest
    size = manifest["resolution"]
    if metadata["resolution"] != size:
        raise XmdptError(
            f"the model generates {metadata['resolution']} px, the dataset was prepared at "
            f"{size} px",
            "prepare the dataset at the model's resolution: xmdpt prepare --resolution "
            f"{metadata['resolution']}",
        )
    for part in ("vae", "source", "pose"):
        differs = encoder_difference(metadata["encoders"][part], manifest["encoders"][part])
        if differs:
            raise XmdptError(
                f"the model was trained on features of another {part} encoder ({differs})",
                "prepare the dataset with the encoders the model was trained with",
            )


def check_compatible(sampler: Sampler, dataset: PairDataset, vae: Decoder) -> None:
    """XmdptError if the dataset was prepared for another model, or the VAE has other latents."""
    check_features(sampler, dataset)
    (channels, side, _), size = sampler.model.latent_shape, dataset.manifest["resolution"]
    if vae.channels != channels or vae.factor * side != size:
        raise XmdptError(
            f"the VAE turns {side}x{side} latents with {vae.channels} channels into "
            f"{vae.factor * side} px; the model has {channels} channels for {size} px",
            "give the VAE the dataset was prepared with: --vae",
        )


@contextmanager
def _inputs_of(
    missing: Sequence[int],
    sampler: Sampler,
    dataset: PairDataset,
    config: SamplingConfig,
    batch_size: int,
) -> Iterator[Callable[[Sequence[int]], tuple[Tensor, Conditions]]]:
    """A function: indices of pairs, consecutive in ``missing`` -> their noise and conditions.

    The next batch is read on threads while the current one is generated.
    """
    threads = CONNECTIONS if dataset.store.folder is None else 1
    tokens = sampler.model.conditioning == "tokens"
    scale = float(sampler.metadata["encoders"]["vae"]["scale"])
    shape = sampler.model.latent_shape

    def read(i: int) -> Conditions:
        pair = load_pairs(dataset, PairIndices.listed([i]), pose_maps=tokens)
        return Conditions.of_batch(pair, scale)

    waiting: dict[int, Conditions] = {}
    with closing(prefetch(read, missing, depth=batch_size, threads=threads)) as ahead:

        def inputs_of(indices: Sequence[int]) -> tuple[Tensor, Conditions]:
            for i in [i for i in waiting if i < indices[0]]:
                del waiting[i]  # generated; a batch that did not fit is requested again
            for i in indices:
                if i not in waiting:
                    waiting[i] = next(ahead)
            noise = start_noise(shape, config.seed, [dataset.pairs[i].position for i in indices])
            return noise, Conditions.join([waiting[i] for i in indices])

        yield inputs_of


@contextmanager
def _locked_part(out: Path, shard: World) -> Iterator[None]:
    """Lock this part for this process. Raises XmdptError if another process generates it, or the
    same images split into another number of parts."""
    family = f"-of-{shard.size}"
    lock = ".lock" if shard.size == 1 else f".lock-{shard.rank}{family}"
    with only_process(out, lock):
        for other in out.glob(".lock*"):
            if other.name not in (lock, _RECORD_LOCK) and not other.name.endswith(family):
                with only_process(out, other.name):
                    pass  # left by a killed process
        yield


def _png_metadata(record: dict[str, Any]) -> dict[str, Any]:
    """The part of the record that each PNG stores."""
    keys = ("sampling", "model", "vae", "precision", "trained_steps", "toy")
    return {key: record[key] for key in keys}


def _record(
    sampler: Sampler, dataset: PairDataset, vae: Decoder, config: SamplingConfig
) -> dict[str, Any]:
    """Everything that determines the images: a folder is not resumed with another record."""
    return {
        "format": "xmdpt-samples",
        **sampler.described(config, vae),
        "conditioning": sampler.model.conditioning,
        "data": [s["sha256"] for s in dataset.manifest["shards"] if s["split"] == dataset.split],
        "split": dataset.split,
        "toy": bool(sampler.metadata["toy"] or dataset.manifest["toy"]),
    }


def _start(out: Path, record: dict[str, Any]) -> None:
    """Write the record; XmdptError if ``out`` holds other samples, or other files."""
    if (out / RECORD).is_file():
        refuse_others(out, read_record(out), record)
    elif any(not name.startswith((".lock", RECORD)) for name in content(out)):
        raise XmdptError(f"{out} is not empty and holds no samples", "choose another --out")
    else:
        write_record(out, record)


def _finish(out: Path, record: dict[str, Any], names: list[str], dataset: PairDataset) -> bool:
    """Write the sheet and the complete record; False if another process did so already."""
    if (out / SHEET).is_file() and set(names) <= set(read_record(out).get("complete", ())):
        return False
    rows = [
        [
            dataset.image(pair.key, pair.source),
            dataset.pose_map(pair.key, pair.target),
            dataset.image(pair.key, pair.target),
            np.asarray(load_image(out / name)),
        ]
        for pair, name in zip(dataset.pairs[:SHEET_ROWS], names, strict=False)
    ]
    save_sheet(out, rows, COLUMNS, _png_metadata(record))
    write_record(out, {**record, "complete": names})
    return True


def _missing(
    out: Path, names: Sequence[str], pairs: Sequence[PairRef], which: Sequence[int], size: int
) -> list[int]:
    """The indices among ``which`` whose image does not exist, or is incomplete.

    Raises XmdptError for an image whose metadata names another pair, or none.
    """
    existing = {path.name for path in out.iterdir()}

    def is_complete(i: int) -> bool:
        data = whole_png(out / names[i], size) if names[i] in existing else None
        if data is not None and f'"pair": {json.dumps(pairs[i].name())}'.encode() not in data:
            raise XmdptError(
                f"{out / names[i]} is not the generated image of its pair",
                "delete it: the same command makes it again",
            )
        return data is not None

    with ThreadPoolExecutor(thread_name_prefix="check") as pool:
        return [i for i, ok in zip(which, pool.map(is_complete, which), strict=True) if not ok]
