"""Which form of ``conditioning="tokens"`` is best: ``python -m xmdpt_cli.bench.conditioning``.

Trains every form on the demo's drawn people (64 px, toy encoders) with the same number of counted
FLOPs, several seeds each, and measures held-out people. What is finished is not done again; the
table is printed from what is there. It says which form suits this model, not how good photographs
will be: DINOv2 is a random toy here, the people are drawn, and training takes minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

from xmdpt_cli.config import resolve
from xmdpt_cli.files import write_text
from xmdpt_cli.training.config import TrainConfig

PEOPLE, TEST_PEOPLE, VIEWS, SIZE = 400, 32, 4, 64  # the demo's
MEASURES = ("ssim_256", "ssim_w51", "psnr", "torso_colour_error", "silhouette_iou")
PAPER = {"prediction": "epsilon", "schedule": "linear"}
VECTOR = {"conditioning": "vector"}
MIPNET = {"predictor": "self-cross"}

#: what differs from the demo's recipe (tokens: latents as keys, pose added, vector, v, cosine)
FORMS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "source by cross-attention": {"token_source_by": "cross"},
    "source in the sequence": {"token_source_by": "sequence"},
    "source from DINOv2": {"token_source": "dino"},
    "source from both": {"token_source": "both"},
    "pose concatenated": {"token_pose": "concat"},
    "pose by tokens": {"token_pose": "keys"},
    "no source tokens": {"token_source": "none"},
    "no pose map": {"token_pose": "none"},
    "no vector": {"vector": False},
    "with MIPNet": MIPNET,
    "with MIPNet, no vector": {**MIPNET, "vector": False},
    "paper's prediction and schedule": PAPER,
    "epsilon, cosine": {"prediction": "epsilon"},
    "v, linear": {"schedule": "linear"},
    "vector alone": VECTOR,
    "vector alone, MIPNet": {**VECTOR, **MIPNET},
    "the paper's: vector, MIPNet, epsilon, linear": {**VECTOR, **MIPNET, **PAPER},
}


def make_data(out: Path, people: int = PEOPLE, vae_steps: int = 500) -> None:
    """The demo's people, toy encoders and prepared dataset below ``out``."""
    from xmdpt_cli.datasets.find import find_dataset
    from xmdpt_cli.prepare.pipeline import prepare_dataset
    from xmdpt_cli.toy.synthetic import make_synthetic
    from xmdpt_cli.toy.train_encoders import make_toy_encoders

    make_synthetic(
        out / "people",
        people_train=people,
        people_test=min(people, TEST_PEOPLE),
        views=VIEWS,
        height=128,
        plain=True,
    )
    listing = find_dataset(out / "people")
    toy = make_toy_encoders(listing, out / "data" / "encoders", size=SIZE, vae_steps=vae_steps)
    prepare_dataset(listing, out / "data", size=SIZE, encoder=toy.encoders)


def recipe_of(changes: dict[str, Any], seed: int) -> TrainConfig:
    """The demo's recipe with a form's changes."""
    base = resolve(TrainConfig, "train", {}, preset="demo/tokens-64")
    return dataclasses.replace(base, **changes, seed=seed, checkpoint_every=10**6, log_every=50)


def cost(config: TrainConfig, data: Path) -> int:
    """Counted FLOPs of one training step."""
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.training.flops import step_flops
    from xmdpt_cli.training.step import step_inputs
    from xmdpt_cli.training.trainer import Trainer

    trainer = Trainer(dataclasses.replace(config, compile="off"), PairDataset(data, "train"))
    inputs = step_inputs(trainer.loader().batch(0), config, 0, trainer.scale, trainer.device)
    return step_flops(trainer.wrapped, inputs)


def run(name: str, seed: int, steps: int, out: Path) -> dict[str, Any]:
    """Train and measure one form with one seed; its record, from disk if it is there."""
    from xmdpt_cli.data.loader import PairDataset
    from xmdpt_cli.encoders.vae import VAE
    from xmdpt_cli.metrics.evaluate import evaluate_pairs
    from xmdpt_cli.report.evaluation_json import to_json
    from xmdpt_cli.sampling.dataset_images import generate
    from xmdpt_cli.sampling.ground_truth import DatasetGroundTruth
    from xmdpt_cli.sampling.sampler import Sampler
    from xmdpt_cli.toy.measures import TOY_METRICS
    from xmdpt_cli.training.loop import train

    data = out / "data"
    base = cost(recipe_of({}, seed), data)
    own = cost(recipe_of(FORMS[name], seed), data)
    config = dataclasses.replace(recipe_of(FORMS[name], seed), steps=round(steps * base / own))
    folder = out / "runs" / f"{name.replace(' ', '-').replace(',', '').replace(':', '')}-{seed}"
    record = folder / f"record-{steps}.json"
    if record.is_file():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    trained = train(config, data, folder / f"run-{steps}")
    sampler = Sampler.load(trained.model)
    samples = folder / f"samples-{steps}"
    dataset = PairDataset(data, "test")
    vae = VAE.load(data / "encoders" / "vae")
    generate(sampler, dataset, vae, samples, sampler.sampling_config(seed=0), batch_size=16)
    truths = DatasetGroundTruth(data, "test", samples)
    report = evaluate_pairs(
        truths.pairs(),
        protocol="native",
        reference=truths.reference_set(),
        extra=TOY_METRICS,
        intervals=False,
    )
    row = to_json(report)["rows"]["generated"]
    found = {
        "form": name,
        "seed": seed,
        "steps": config.steps,
        "gflop_per_step": own / 1e9,
        "seconds": trained.seconds,
        "scores": {name: row[name] for name in MEASURES},
    }
    write_text(record, json.dumps(found, indent=1))
    return found


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a row a form, means over seeds, and half the range between them."""
    names = list(records[0]["scores"])
    lines = ["| form | seeds | steps | " + " | ".join(names) + " |"]
    lines.append("|---" * (3 + len(names)) + "|")
    for form in dict.fromkeys(record["form"] for record in records):
        own = [record for record in records if record["form"] == form]
        cells = [form, str(len(own)), str(own[0]["steps"])]
        for name in names:
            values = [record["scores"][name] for record in own]
            spread = (max(values) - min(values)) / 2
            cells.append(f"{statistics.mean(values):.4g} ± {spread:.2g}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m xmdpt_cli.bench.conditioning"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--steps", type=int, default=400, help="of the form 'tokens'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--people", type=int, default=PEOPLE, help="drawn to train on")
    parser.add_argument("--vae-steps", type=int, default=500)
    parser.add_argument("--part", default="0/1", help="i/n: every n-th run, for n processes")
    args = parser.parse_args(arguments)
    mine, parts = (int(number) for number in args.part.split("/"))
    made = args.out / "data" / "dataset.json"
    if mine == 0:
        make_data(args.out, args.people, args.vae_steps)
    while not made.is_file():
        time.sleep(1.0)  # part 0 makes the data for all
    jobs = [(name, seed) for seed in args.seeds for name in args.only]
    records = []
    for number, (name, seed) in enumerate(jobs):
        if number % parts != mine:
            continue
        records.append(run(name, seed, args.steps, args.out))
        last = records[-1]
        print(f"{name}, seed {seed}: {last['steps']} steps, {last['scores']}", flush=True)
    print(table(records))


if __name__ == "__main__":
    main()
