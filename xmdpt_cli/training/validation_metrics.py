"""Values of a run on held-out pairs: the loss by timestep, the similarity of condition vectors.

Computed in float32 without autocast, in chunks of a fixed size and with fixed noise: the same
weights give the same values, whatever the training's batch size or precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from xmdpt_cli.diffusion import Schedule, start_noise, training_loss
from xmdpt_cli.model import XMDPT, Context
from xmdpt_cli.training.validation_pairs import CHUNK, Rows, Views, stratified

LOSS_SEED = 1  # not the noise that the validation images start from


def condition_of(model: XMDPT, rows: Rows) -> tuple[Tensor, Context | None]:
    """Condition vectors (N, D), and the context of ``conditioning="tokens"``."""
    condition = model.condition(rows.pose_tokens, rows.source_tokens, rows.source)
    if model.conditioning != "tokens":
        return condition, None
    assert rows.pose_maps is not None
    return condition, model.context(rows.source, *rows.pose_maps, rows.source_tokens)


@torch.no_grad()
def validation_losses(
    model: XMDPT, rows: Rows, schedule: Schedule, device: torch.device
) -> dict[str, float]:
    """The unmasked pass, every condition kept, each pair at one timestep of every quartile.

    ``val_mse_q1`` .. ``q4`` and ``val_vb_q1`` .. ``q4``: means over the pairs, q1 the quarter with
    the least noise. ``val_mse`` and ``val_vb``: means over the quartiles; ``val_loss``: their sum.
    """
    mse: list[list[Tensor]] = [[], [], [], []]
    vb: list[list[Tensor]] = [[], [], [], []]
    times = [stratified(len(rows.positions), schedule.steps, q) for q in range(4)]
    for number, part in enumerate(rows.chunks(device)):
        condition, context = condition_of(model, part)
        for q in range(4):
            noise = start_noise(tuple(part.target.shape[1:]), LOSS_SEED + q, part.positions)
            t = times[q][number * CHUNK : number * CHUNK + len(part.positions)]
            losses = training_loss(
                model,
                part.target,
                torch.from_numpy(t).to(device),
                noise.to(device),
                condition,
                context=context,
                schedule=schedule,
            )
            mse[q].append(losses.mse)
            vb[q].append(losses.vb)
    out = {"val_loss": 0.0, "val_mse": 0.0, "val_vb": 0.0}
    for name, quartiles in (("val_mse", mse), ("val_vb", vb)):
        for q, parts in enumerate(quartiles):
            value = float(torch.cat(parts).double().mean())
            out[f"{name}_q{q + 1}"] = value
            out[name] += value / 4
    out["val_loss"] = out["val_mse"] + out["val_vb"]
    return out


@torch.no_grad()
def similarity(model: XMDPT, views: Views, device: torch.device) -> dict[str, float]:
    """Mean cosine similarity of condition vectors for one pose and two sources (paper Fig. 5).

    ``condition_similarity_views``: the sources are two views of one garment on one person;
    ``condition_similarity_people``: they show people in different items. The pose is the same in
    each comparison, so only the source differs. If both are high, the vector holds little of the
    person; if the first is much higher, it recognises the person from any side.
    """
    if model.canet is None:  # the model has no condition vector
        return {}
    vectors = []
    for source_tokens, source in zip(views.source_tokens, views.source, strict=True):
        parts = [
            model.condition(
                views.pose_tokens[i : i + CHUNK].to(device),
                source_tokens[i : i + CHUNK].to(device),
                source[i : i + CHUNK].to(device),
            )
            for i in range(0, len(source), CHUNK)
        ]
        vectors.append(torch.cat(parts).double())
    first, other, stranger = vectors
    out = {"condition_similarity_views": float(cosine_similarity(first, other).mean())}
    if views.strangers:
        out["condition_similarity_people"] = float(cosine_similarity(first, stranger).mean())
    return out
