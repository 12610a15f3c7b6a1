"""Trains the toy model of the package: ``python examples/experiments/toy_model.py --out DIR``.

Renders synthetic people, trains a VAE and a model on them, fine-tunes the VAE's decoder, generates
people who are not among them, measures these images, and writes ``DIR/model``: the folder that the
package contains as ``xmdpt_cli/toy/model``. An interrupted script resumes. One CPU core takes about
five hours.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from xmdpt_cli import XMDPTPipeline
from xmdpt_cli.config import resolve
from xmdpt_cli.files import write_text
from xmdpt_cli.model import parameter_counts
from xmdpt_cli.model.checkpoint import WEIGHTS
from xmdpt_cli.report.tables import Table
from xmdpt_cli.toy.demo import Scale, run_demo
from xmdpt_cli.training.config import TrainConfig

#: metrics of the card
SHOWN = ("ssim_256", "psnr", "torso_colour_error", "silhouette_iou")
CARD = """# The toy model of xmdpt

Generates **synthetic people** that `xmdpt synth` renders, at {size}x{size} px, so that the package
shows an image right after its installation. It knows no photographs; its images and numbers say
nothing about results on photographs.

```bash
xmdpt demo --no-train
xmdpt sample --model toy --source person.png --pose pose.json   # xmdpt synth renders such people
```

## How it was made

```text
python examples/experiments/toy_model.py --out DIR
```

X-MDPT with token conditions (an extension of the paper), {parameters:,} parameters, stored in half
precision, trained for {steps:,} steps on {images:,} images of {people:,} synthetic people (preset
`{preset}`), on one CPU core. The VAE was trained on the same people, its decoder fine-tuned after
the model's training. The two DINOv2 networks are small and not trained. No photograph was used.

## Measured

{pairs} pairs of people who are not in the training set, {sampling}. These are toy measures of
synthetic people, comparable with no published number.

{table}

Limits: clothes and faces are smooth, patterns are lost, and white clothes lack outlines. More
sampling steps give sharper images with grain.

## Licence

MIT, as the package.
"""
PRESET = "toy/people-128"
SCALE = Scale(
    size=128, people=2000, test_people=64, plain=False, vae_steps=3500, latent_channels=8,
    decoder_steps=3000,
)  # fmt: skip


def export(model: Path, work: Path, metrics: Path, out: Path) -> None:
    """Write a model with its encoders and its card, the model's weights in half precision.

    ``work``: the folder of ``run_demo``.
    """
    pipe = XMDPTPipeline.from_pretrained(
        model, device="cpu", encoders=work / "data" / "encoders", vae=work / "vae"
    )
    pipe.save_pretrained(out, include=("vae", "source", "pose"))
    write_text(out / "README.md", card(pipe, json.loads(metrics.read_text(encoding="utf-8"))))
    # rounding to float16 changes the images by less than a grey level, and halves the file
    half = {name: value.half() for name, value in load_file(out / WEIGHTS).items()}
    save_file(half, out / WEIGHTS, metadata={"format": "pt"})


def card(pipe: XMDPTPipeline, metrics: dict[str, Any]) -> str:
    """The model card."""
    made = pipe.sampler.metadata
    trained_on, own = made["trained_on"], made["sampling"]
    shown = [row for row in metrics["rows"] if row != "ground-truth"]
    cells = [[row, *(f"{metrics['rows'][row][name]:.4g}" for name in SHOWN)] for row in shown]
    return CARD.format(
        size=pipe.resolution,
        parameters=parameter_counts(pipe.sampler.model)["inference"],
        steps=made["trained_steps"],
        people=trained_on["items"],
        images=trained_on["images"],
        preset=PRESET,
        sampling=f"{own['steps']} steps of {own['solver']}, guidance {own['guidance']}",
        pairs=metrics["counts"]["generated"],
        table=Table("", ["", *SHOWN], cells).markdown(),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="training steps [the preset's]")
    parser.add_argument("--people", type=int, default=SCALE.people)
    parser.add_argument("--vae-steps", type=int, default=SCALE.vae_steps)
    parser.add_argument("--decoder-steps", type=int, default=SCALE.decoder_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... [cpu]")
    parser.add_argument("--threads", type=int, default=1, help="threads of a CPU")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    recipe = resolve(TrainConfig, "train", {"steps": args.steps, "seed": args.seed}, preset=PRESET)
    scale = replace(
        SCALE, people=args.people, vae_steps=args.vae_steps, decoder_steps=args.decoder_steps
    )
    summary, _ = run_demo(args.out, recipe, scale, seed=args.seed, device=args.device, say=print)
    metrics = args.out / f"samples-{recipe.conditioning}" / "metrics.json"
    export(Path(summary["model"]), args.out, metrics, args.out / "model")
    print(summary["rows"]["generated"], summary["seconds"])


if __name__ == "__main__":
    main()
