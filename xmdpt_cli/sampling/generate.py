"""A whole test set: one PNG a pair, a contact sheet, and a record of how it was made."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xmdpt_cli.data.loader import EvalBatch, PairDataset, PairRef, eval_batches
from xmdpt_cli.data.names import parse_name
from xmdpt_cli.diffusion import start_noise
from xmdpt_cli.encoders.vae import VAE, posterior_mean
from xmdpt_cli.errors import XmdptError
from xmdpt_cli.files import only_process, write_text
from xmdpt_cli.images import Picture, load_image, save_png
from xmdpt_cli.progress import Progress, silent
from xmdpt_cli.sampling.fit import check_fit
from xmdpt_cli.sampling.pipeline import Recipe, Sampler
from xmdpt_cli.sampling.sheet import contact_sheet
from xmdpt_cli.stores import is_url

RECORD = "samples.json"
SHEET = "sheet.png"
SHEET_ROWS = 16


def sample_name(pair: PairRef) -> str:
    """``fashion..._1front_2_fashion..._2side.png``: both flat names joined by ``_2_``, as the
    field names them (source first)."""
    flat = [
        parse_name(f"{pair.key.replace('-id_', '/id_').replace('-', '/', 1)[:-3]}"
                   f"/{pair.key[-2:]}_{view}.jpg").flat.removesuffix(".jpg")
        for view in (pair.source, pair.target)
    ]  # fmt: skip
    return f"{flat[0]}_2_{flat[1]}.png"


def find_vae(encoders: dict[str, Any], near: str | Path, given: str | None) -> str:
    """Where the VAE that made the latents is: as given, beside the dataset, or its hub id.

    A toy's folder is looked for where ``xmdpt prepare --encoders toy`` puts it.
    """
    if given is not None:
        return given
    beside = Path(near) / "encoders" / "vae"
    if not is_url(near) and beside.is_dir():
        return str(beside)
    return str(encoders["vae"]["id"])


def generate(
    sampler: Sampler,
    dataset: PairDataset,
    vae: VAE,
    out: Path,
    recipe: Recipe,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Draw the dataset's pairs in published order into ``out``; returns the record.

    A picture that is there and whole is not made again, provided the folder was begun with the
    same model and recipe (else XmdptError). A picture depends on the seed and its pair alone.
    """
    check_fit(sampler, dataset, vae)
    record = _record(sampler, dataset, recipe)
    names = [sample_name(pair) for pair in dataset.pairs[:limit]]
    with only_process(out):
        _begin(out, record)
        done = 0
        rows: list[list[Picture]] = []
        progress("sample", 0, len(names))
        tokens = sampler.model.conditioning == "tokens"
        for batch in eval_batches(dataset, batch_size, limit, pose_maps=tokens):
            positions = list(range(done, done + len(batch.pairs)))
            paths = [out / names[i] for i in positions]
            pictures = _existing(paths, dataset.resolution)
            if pictures is None:
                pictures = _draw(sampler, vae, batch, positions, recipe)
                for path, picture in zip(paths, pictures, strict=True):
                    save_png(path, picture)
            for row in range(min(len(pictures), SHEET_ROWS - len(rows))):
                pair = dataset.pairs[positions[row]]
                rows.append(
                    [
                        batch.source_pictures[row].numpy(),
                        dataset.pose_map(pair.key, pair.target),
                        batch.target_pictures[row].numpy(),
                        pictures[row],
                    ]
                )
            done += len(batch.pairs)
            progress("sample", done, len(names))
        save_png(out / SHEET, contact_sheet(rows))
        write_text(out / RECORD, json.dumps({**record, "complete": names}, indent=1))
    return {**record, "pictures": len(names), "sheet": str(out / SHEET)}


def _draw(
    sampler: Sampler, vae: VAE, batch: EvalBatch, positions: list[int], recipe: Recipe
) -> list[Picture]:
    device = next(sampler.model.parameters()).device
    scale = float(sampler.facts["encoders"]["vae"]["scale"])
    latents = sampler.latents(
        start_noise(sampler.model.latent_shape, recipe.seed, positions).to(device),
        batch.pose_tokens.to(device),
        batch.source_tokens.to(device),
        posterior_mean(batch.source_moments.to(device), scale),
        batch.pose_maps(device),
        recipe,
    )
    return list(vae.decode(latents))


def _record(sampler: Sampler, dataset: PairDataset, recipe: Recipe) -> dict[str, Any]:
    return {
        "format": "xmdpt-samples",
        "recipe": asdict(recipe),
        "model": sampler.identity(),
        "trained_steps": sampler.facts["trained_steps"],
        "conditioning": sampler.model.conditioning,
        "data": [s["sha256"] for s in dataset.manifest["shards"] if s["split"] == dataset.split],
        "split": dataset.split,
        "toy": bool(sampler.facts["toy"] or dataset.manifest["toy"]),
    }


def _begin(out: Path, record: dict[str, Any]) -> None:
    known = out / RECORD
    if known.is_file():
        before = json.loads(known.read_text(encoding="utf-8"))
        differs = [key for key, value in record.items() if before.get(key) != value]
        if differs:
            raise XmdptError(
                f"{out} holds samples made otherwise; what differs: {', '.join(differs)}",
                "choose another --out",
            )
    elif any(path.name != ".lock" for path in out.iterdir()):
        raise XmdptError(f"{out} is not empty and holds no samples", "choose another --out")
    else:
        write_text(known, json.dumps(record, indent=1))


def _existing(paths: list[Path], size: int) -> list[Picture] | None:
    """The pictures if all are there and whole, else None."""
    pictures = []
    for path in paths:
        try:
            picture = np.asarray(load_image(path))
        except XmdptError:
            return None
        if picture.shape != (size, size, 3):
            return None
        pictures.append(picture)
    return pictures
