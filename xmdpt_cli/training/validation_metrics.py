"""Validation metrics on held-out pairs: losses by timestep, similarity of condition vectors.

In float32 without autocast, in chunks of a fixed size and with fixed noise: one set of weights
gives one set of numbers, whatever the training's batch size or precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from xmdpt_cli.diffusion import Schedule, start_noise
from xmdpt_cli.diffusion.loss import loss_terms
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.conditions import conditions_of
from xmdpt_cli.training.validation_pairs import CHUNK, ItemViews, ValidationPairs, stratified

LOSS_SEED = 1  # other noise than the generated images start from


@torch.no_grad()
def validation_losses(
    model: XMDPT, pairs: ValidationPairs, schedule: Schedule, device: torch.device
) -> dict[str, float]:
    """The unmasked pass, every condition kept, each pair at one timestep of every quartile.

    ``val_mse_q1`` .. ``q4`` and ``val_vb_q1`` .. ``q4``: means over the pairs, q1 the quarter with
    the least noise. ``val_mse`` and ``val_vb``: means over the quartiles; ``val_loss``: their sum.
    Flow matching has no ``val_vb``.
    """
    terms: dict[str, list[list[Tensor]]] = {"val_mse": [[], [], [], []]}
    if schedule.trains_variance:
        terms["val_vb"] = [[], [], [], []]
    times = [stratified(len(pairs.positions), schedule.steps, q) for q in range(4)]
    for number, part in enumerate(pairs.chunks(device)):
        condition, tokens = conditions_of(model, part)
        for q in range(4):
            noise = start_noise(tuple(part.target.shape[1:]), LOSS_SEED + q, part.positions)
            noise = noise.to(device)
            first = number * CHUNK
            t = torch.from_numpy(times[q][first : first + len(part.positions)]).to(device)
            out = model(schedule.add_noise(part.target, noise, t), t, condition, tokens)
            rows = loss_terms(out, part.target, noise, t, schedule)
            for quartiles, row in zip(terms.values(), rows, strict=False):
                assert row is not None
                quartiles[q].append(row)
    values = {"val_loss": 0.0, **dict.fromkeys(terms, 0.0)}
    for name, quartiles in terms.items():
        for q, parts in enumerate(quartiles):
            value = float(torch.cat(parts).double().mean())
            values[f"{name}_q{q + 1}"] = value
            values[name] += value / 4
    values["val_loss"] = sum(values[name] for name in terms)
    return values


@torch.no_grad()
def similarity(model: XMDPT, views: ItemViews, device: torch.device) -> dict[str, float]:
    """Mean cosine similarity of condition vectors for one pose and two sources (paper Fig. 5).

    ``condition_similarity_views``: the sources are two views of one item on one person;
    ``condition_similarity_people``: they show people in different items. The pose is the same in
    each comparison, so only the source can change the vectors. If both are high, the vector holds
    little of the person; a gap means that it identifies the person from any side.
    """
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
