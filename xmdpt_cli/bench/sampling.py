"""Guided sampling, ours against the published way: ``python -m xmdpt_cli.bench.sampling --size S``.

Same weights, same inputs, same results (checked before anything is timed), rounds interleaved in
one run. "published" computes as the published code does (see ``published``): the source view goes
through every block, the two guidance branches run one after the other, CANet is computed in each.
"ours" is what ``xmdpt sample`` does, from CANet on; "compiled" the same through torch.compile. A
round is a few DDIM steps with all that is made before them, of which 50 steps would have less each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.timing import measure, randomise, report
from xmdpt_cli.diffusion import sample
from xmdpt_cli.model import XMDPT

WAYS = ("published", "ours", "compiled")
GUIDANCE, POWER = 2.0, 0.01  # paper sec. 4.1


class Inputs:
    """Random conditions and start noise for ``count`` pictures."""

    def __init__(self, model: XMDPT, count: int, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        assert model.canet is not None
        self.pose = torch.randn(count, *model.canet.pose, generator=rng).bfloat16()
        self.source = torch.randn(count, *model.canet.source, generator=rng).bfloat16()
        self.latents = torch.randn(count, *model.latent_shape, generator=rng)
        self.noise = torch.randn(count, *model.latent_shape, generator=rng)


def published_way(model: XMDPT, inputs: Inputs, steps: int) -> Callable[[], Tensor]:
    """A call samples with the published amount of work."""
    net = PublishedXMDPT(model).eval().requires_grad_(False)
    count = len(inputs.noise)
    keep, drop = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        # ``sample`` asks for both branches in one batch; they are run apart, each from its inputs
        outs = []
        for part, times, kept in zip(x.chunk(2), t.chunk(2), (keep, drop), strict=True):
            outs.append(net(part, times, inputs.pose, inputs.source, inputs.latents, kept))
        return torch.cat(outs)

    def run() -> Tensor:
        return sample(predict, inputs.noise, torch.ones(count, 1), steps, GUIDANCE, POWER)

    return run


def our_way(model: XMDPT, inputs: Inputs, steps: int) -> Callable[[], Tensor]:
    """A call samples as ``xmdpt sample`` does."""

    @torch.no_grad()
    def run() -> Tensor:
        condition = model.condition(inputs.pose, inputs.source, inputs.latents)
        return sample(model, inputs.noise, condition, steps, GUIDANCE, POWER)

    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m xmdpt_cli.bench.sampling")
    parser.add_argument("--size", default="S")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--impl", choices=WAYS, action="append", help="only these [all]")
    args = parser.parse_args(arguments)
    names = args.impl or list(WAYS)
    torch.manual_seed(0)
    model = XMDPT.from_size(args.size)
    randomise(model)
    model.eval().requires_grad_(False)
    inputs = Inputs(model, args.batch_size)
    ways = {}
    for name in names:
        if name == "published":
            ways[name] = published_way(model, inputs, args.steps)
        else:
            own = XMDPT.from_size(args.size)
            own.load_state_dict(model.state_dict())
            own.eval().requires_grad_(False)
            if name == "compiled":
                own.compile_sampling()
            ways[name] = our_way(own, inputs, args.steps)
    found = {name: way() for name, way in ways.items()}  # compiling included
    first = found[names[0]]
    for name, out in found.items():
        error = float((out - first).abs().max() / first.abs().max())
        assert error < 1e-4, (name, error)
        print(f"{name}: differs from {names[0]} by {error:.1e} of the largest value")
    print(
        f"size {args.size}, {args.batch_size} pictures, {args.steps} guided DDIM steps a round, "
        f"fp32, {torch.get_num_threads()} threads"
    )
    report(measure(ways, args.rounds), names[0])


if __name__ == "__main__":
    main()
