"""The model card of a published model: use, training, measurements, and impact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xmdpt_cli.diffusion.solvers import POLICY
from xmdpt_cli.encoders.identity import PARTS
from xmdpt_cli.encoders.places import TINY_FOLDER
from xmdpt_cli.report.tables import Table
from xmdpt_cli.utils.counts import counted

IMPACT = """\
A model that generates a given person in any pose can show people in situations they were never
in. Use it on images of people who agreed, or who do not exist; label its images as synthetic (the
PNGs that `xmdpt` writes have this in their metadata); do not use it to deceive, to harass, or to
identify people. It inherits the bias of its data: DeepFashion shows mostly young, slim,
light-skinned models in studio light, so images of other people are worse. DeepFashion's images are
licensed for non-commercial research only; check whether that applies to weights trained on them
before any other use."""


#: The papers of the losses of ``xmdpt distill``.
LOSS_PAPERS = {
    "guidance": "[guidance distillation](https://arxiv.org/abs/2210.03142)",
    "policy": "[pi-Flow](https://arxiv.org/abs/2510.14974)",
}


def model_card(
    repo_id: str,
    metadata: Mapping[str, Any],
    parameters: Mapping[str, int],
    *,
    training_config: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    tiny: bool = False,
) -> str:
    """README.md of a published model.

    ``metadata``: of the model. ``training_config``: the run's config.toml. ``metrics``: what
    ``xmdpt evaluate`` wrote (metrics.json). ``tiny``: whether it has a tiny decoder.
    """
    toy = bool(metadata["toy"])
    kinds = [kind for kind in ("toy", "distilled") if metadata.get(kind)]
    parts = [_front(kinds), f"# {repo_id.split('/')[-1]}\n"]
    if toy:
        parts.append(
            "> **Toy**: trained on synthetic people or with toy networks, to try things out. Its "
            "images and numbers say nothing about results on photographs.\n"
        )
    size = int(metadata["resolution"])
    parts.append(
        "X-MDPT ([Cross-view Masked Diffusion Transformers](https://arxiv.org/abs/2402.01516), "
        f"ICML 2024) at {size}x{size} px: a photograph of a person and a pose in, that person in "
        f"that pose out. {parameters['inference']:,} parameters at inference.\n"
    )
    parts.append(_use(repo_id, metadata))
    if tiny:
        parts.append(
            f"Tiny decoder: `{TINY_FOLDER}/` (`AutoencoderTiny`) decodes the same latents faster "
            "and less exactly than the VAE. It is used where it is asked for, with `--vae tiny` or "
            '`vae="tiny"`, and for previews.\n'
        )
    parts.append(_made(metadata, training_config))
    parts.append(_measured(metrics))
    parts.append(f"## Impact\n\n{IMPACT}\n")
    return "\n".join(parts)


def _front(kinds: Sequence[str]) -> str:
    tags = ["pose-guided-person-image-synthesis", "diffusion", "x-mdpt", *kinds]
    lines = ["---", "library_name: xmdpt", "pipeline_tag: image-to-image", "license: other"]
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---", ""]
    return "\n".join(lines)


def _use(repo_id: str, metadata: Mapping[str, Any]) -> str:
    own = metadata["sampling"]
    solver = own.get("solver", "ddim")
    if solver == POLICY:
        solver += " (the solver of distilled models)"
    return (
        "## Use\n\n```bash\npip install xmdpt-cli\n"
        f"xmdpt sample --model {repo_id} --source person.jpg --pose pose.json --out images\n```\n\n"
        "```python\nfrom xmdpt_cli import XMDPTPipeline, save_png\n\n"
        f'pipe = XMDPTPipeline.from_pretrained("{repo_id}")\n'
        'image = pipe(source="person.jpg", pose="pose.json")[0]\n'
        'save_png("person_in_pose.png", image)  # with its settings\n```\n\n'
        f"Defaults: {counted(own['steps'], 'step')} of {solver}, guidance "
        f"{own['guidance']}, power {own['power']} (paper eq. 6).\n"
    )


def _made(metadata: Mapping[str, Any], training_config: str | None) -> str:
    steps, data = metadata["trained_steps"], metadata.get("trained_on")
    networks = "; ".join(
        f"{network.what} `{metadata['encoders'][part]['id']}`" for part, network in PARTS.items()
    )
    trained = "an unknown number of steps" if steps is None else counted(steps, "step")
    how = f"Trained for {trained}"
    if metadata.get("distilled"):
        how = f"{_distilled(metadata['distilled'])} Distilled for {trained}"
    lines = [
        "## How it was made\n",
        f"{how} {_goal(metadata)}{_start(metadata)}. Features: {networks}.",
    ]
    if data:
        lines.append(
            f"Data: {counted(data['images'], 'image')} of "
            f"{counted(data['items'], 'person', 'people')} in one outfit each, "
            f"{counted(data['pairs'], 'pair')}."
        )
    else:
        lines.append("Data: not recorded.")
    if training_config:
        lines += [
            "\n<details><summary>Training configuration</summary>\n",
            "```toml",
            training_config.strip(),
            "```\n",
            "</details>",
        ]
    return "\n".join([*lines, ""])


def _goal(metadata: Mapping[str, Any]) -> str:
    if metadata["schedule"] == "flow":
        return "to predict the velocity of flow matching"
    return f"to predict {metadata['prediction']} on the {metadata['schedule']} schedule"


def _start(metadata: Mapping[str, Any]) -> str:
    """The model whose weights the training started from, if there is one."""
    initial = metadata.get("initial")
    if initial is None:
        return ""
    steps = initial["trained_steps"]
    trained = "" if steps is None else f", trained for {counted(steps, 'step')}"
    return (
        f", from the weights of the model `{initial['name']}` (sha256 `{initial['sha256'][:12]}`"
        f"{trained})"
    )


def _distilled(record: Mapping[str, Any]) -> str:
    """Teacher, loss and evaluations of a student."""
    teacher, (low, high) = record["teacher"], record["guidance"]
    steps = teacher["trained_steps"]
    trained = "" if steps is None else f", trained for {counted(steps, 'step')}"
    if record["stage"] == "steps":
        evaluations = f"It samples in exactly {counted(record['steps'], 'step')}"
    else:
        evaluations = "It samples in any number of steps"
    link = LOSS_PAPERS.get(record["loss"])
    paper = f" ({link})" if link else ""
    return (
        f"A student of the model `{teacher['name']}` (sha256 of its weights "
        f"`{teacher['sha256'][:12]}`, {teacher['conditioning']} conditioning, "
        f"{teacher['prediction']} prediction{trained}), loss `{record['loss']}`{paper}. "
        f"{evaluations}, each one evaluation of the network, with a guidance scale from {low:g} "
        f"to {high:g} and power {record['power']:g}."
    )


def _measured(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "## Measured\n\nNothing yet.\n"
    rows = metrics["rows"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    toy = ", **toy networks**" if metrics.get("toy") else ""
    counts = json.dumps(metrics.get("counts", {}))
    cells = [
        [row, *("" if (v := values.get(name)) is None else f"{v:.4g}" for name in names)]
        for row, values in rows.items()
    ]
    return (
        f"## Measured\n\n`xmdpt evaluate`, protocol `{metrics['protocol']}`{toy}; counts {counts}."
        f"\n\n{Table('', ['', *names], cells).markdown()}\n"
    )
