"""The ways a batch of pictures is drawn that ``xmdpt bench`` compares, one gain after the other.

All ways of one size have the same weights and the same inputs, and those that compute the same
(``Way.same``) are checked to give the same before anything is timed. Conditions (DINOv2 tokens,
source latents) are given: what makes them is measured by ``xmdpt bench encode``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.bench.baselines import BASELINES, BRANCHES, disentangled, sample_dcfg
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.timing import precision, randomise
from xmdpt_cli.diffusion import sample
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.train_config import TrainConfig

GUIDANCE, POWER = 2.0, 0.01  # paper sec. 4.1
SCALES = 2.0, 2.0  # of D-CFG; speed does not depend on them
STEPS = 50  # the paper's table
PIXELS_A_LATENT = 8


@dataclass(frozen=True)
class Way:
    """How one batch is drawn: ``setup`` once, then ``draw`` from what it gave.

    ``draw(state, steps)`` gives latents, or pictures where not ``latent``. ``steps`` is what a
    whole picture takes; ``forwards`` the network's calls for it. Ways of one model with an equal
    ``same`` draw the same latents.
    """

    model: str
    name: str
    network: nn.Module
    setup: Callable[[], Any]
    draw: Callable[[Any, int], Tensor]
    dtype: torch.dtype
    branches: int
    steps: int = STEPS
    latent: bool = True
    same: str = ""
    gain: str = ""  # what it adds to ``base``, the name of another way of this model
    base: str = ""
    parameters: tuple[int, int] = (0, 0)  # in training, in inference

    @property
    def key(self) -> str:
        return f"{self.model} / {self.name}"

    @property
    def forwards(self) -> int:
        return self.steps * self.branches


@dataclass(frozen=True)
class Setting:
    """What all ways of a run share."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    pixels: int = 256
    compiled: bool = True
    tiny: bool = False  # baselines cut down, for X-MDPT's tiny size


class Inputs:
    """Random conditions and start noise for ``count`` pictures."""

    def __init__(self, model: XMDPT, count: int, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        assert model.canet is not None
        self.pose = torch.randn(count, *model.canet.pose, generator=rng).bfloat16()
        self.source = torch.randn(count, *model.canet.source, generator=rng).bfloat16()
        self.latents = torch.randn(count, *model.latent_shape, generator=rng)
        self.noise = torch.randn(count, *model.latent_shape, generator=rng)


def baseline_ways(setting: Setting) -> Iterator[Way]:
    """PIDM's and PoCoLD's kind (see ``baselines``); the three branches in one batch."""
    for make in BASELINES.values():
        baseline = make("tiny" if setting.tiny else "full")
        torch.manual_seed(0)
        with torch.device(setting.device):
            network = baseline.build().to(setting.dtype).eval().requires_grad_(False)
        given = baseline.inputs(setting.batch)
        noise = given.noise.to(setting.device)
        pose, source = (x.to(setting.device, setting.dtype) for x in (given.pose, given.source))
        named, *tiny = baseline.name.split(" ", 1)
        held = sum(p.numel() for p in network.parameters())

        # default arguments: each way keeps its own network
        def setup(network: Any = network, pose: Tensor = pose, source: Tensor = source) -> Any:
            with torch.no_grad():
                return network.encode(pose, source)

        def draw(state: Any, steps: int, network: Any = network, noise: Tensor = noise) -> Tensor:
            return sample_dcfg(network, noise, state, steps)

        yield Way(
            " ".join([f"{named}-style", *tiny]), "D-CFG", network, setup, draw, setting.dtype,
            BRANCHES, latent=baseline.latent, parameters=(held, held),
        )  # fmt: skip


def xmdpt_ways(size: str, setting: Setting) -> Iterator[Way]:
    """X-MDPT of ``size``, from the published way of computing to ours; each row adds one gain.

    - guidance: as published, but two branches a step, its own, instead of D-CFG's three;
    - pruning: no source stream, CANet once;
    - attention: fused, biases made once, timesteps and adaLN before the loop, branches batched;
    - compile: the same through torch.compile;
    - solver: the default few steps; precision: the other one than the run's;
    - and ours under D-CFG, for what guidance costs there.
    """
    model = _model(size, setting)
    inputs = _inputs(model, setting)
    counts = model.parameter_counts()
    own = counts["training"], counts["inference"]
    named = f"X-MDPT-{size}"
    published = PublishedXMDPT(model).eval().requires_grad_(False)
    published = published.to(setting.device, setting.dtype)

    def way(name: str, network: nn.Module, setup: Any, draw: Any, **more: Any) -> Way:
        given = {"dtype": setting.dtype, "branches": 2, "same": "cfg", "parameters": own, **more}
        return Way(named, name, network, setup, draw, **given)

    draw = _published(published, inputs, BRANCHES, setting)
    yield way("published, D-CFG", published, lambda: None, draw, branches=BRANCHES, same="dcfg")
    draw = _published(published, inputs, 2, setting)
    yield way("published", published, lambda: None, draw, gain="guidance", base="published, D-CFG")
    yield way("pruned", published, *_pruned(published, inputs), gain="pruning", base="published")
    yield way("attention", model, *_ours(model, inputs), gain="attention", base="pruned")
    best, name = model, "attention"
    if setting.compiled:
        best, name = _model(size, setting), "compiled"
        best.compile_sampling()
        yield way(name, best, *_ours(best, inputs), gain="compile", base="attention")
    config = TrainConfig()
    few, solver = config.sampling_steps, config.sampling_solver
    draws = _ours(best, inputs, solver)
    yield way(f"{few} steps", best, *draws, steps=few, same="", gain="solver", base=name)
    other = torch.float32 if setting.dtype == torch.bfloat16 else torch.bfloat16
    changed = _model(size, setting).to(other)
    if setting.compiled:
        changed.compile_sampling()
    draws = _ours(changed, _cast(inputs, other))
    yield way(precision(other), changed, *draws, dtype=other, same="", gain="precision", base=name)
    draws = _ours_disentangled(best, inputs)
    yield way(
        f"{name}, D-CFG", best, *draws, branches=BRANCHES, same="dcfg", gain="guidance", base=name
    )


def _model(size: str, setting: Setting) -> XMDPT:
    torch.manual_seed(0)
    model = XMDPT.from_size(size, latent_size=setting.pixels // PIXELS_A_LATENT)
    randomise(model)
    return model.eval().requires_grad_(False).to(setting.device, setting.dtype)


def _inputs(model: XMDPT, setting: Setting) -> Inputs:
    inputs = Inputs(model, setting.batch)
    for name, value in vars(inputs).items():
        setattr(inputs, name, value.to(setting.device))
    return _cast(inputs, setting.dtype)


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Conditions in ``dtype``; the noise stays in fp32, as ``xmdpt sample`` keeps it."""
    out = object.__new__(Inputs)
    for name, value in vars(inputs).items():
        setattr(out, name, value if name == "noise" else value.to(dtype))
    return out


Draw = Callable[[Any, int], Tensor]


def _published(net: PublishedXMDPT, inputs: Inputs, branches: int, setting: Setting) -> Draw:
    """Every branch by itself, the source stream and CANet in each."""
    count = len(inputs.noise)
    keep = torch.ones(count, dtype=torch.bool, device=setting.device)
    nothing = torch.zeros_like(inputs.source)
    # (whether conditions are kept, the source's tokens, its latents)
    given: Sequence[tuple[Tensor, Tensor, Tensor]] = [
        (~keep, inputs.source, inputs.latents),
        (keep, inputs.source, inputs.latents),
    ]
    if branches == BRANCHES:
        given = [given[0], (keep, nothing, torch.zeros_like(inputs.latents)), given[1]]

    def predict(x: Tensor, t: Tensor, _: Tensor) -> Tensor:
        x = x.to(inputs.latents.dtype)
        outs = [net(x, t, inputs.pose, tokens, latents, kept) for kept, tokens, latents in given]
        return torch.cat(outs)

    return _stepwise(predict, inputs, branches)


def _pruned(net: PublishedXMDPT, inputs: Inputs) -> tuple[Callable[[], Tensor], Draw]:
    @torch.no_grad()
    def setup() -> Tensor:
        return net.condition(inputs.pose, inputs.source, inputs.latents)

    def draw(condition: Tensor, steps: int) -> Tensor:
        def predict(x: Tensor, t: Tensor, _: Tensor) -> Tensor:
            x = x.to(inputs.latents.dtype)
            without = net.pruned(x, t, torch.zeros_like(condition))
            return torch.cat([without, net.pruned(x, t, condition)])

        return _stepwise(predict, inputs, 2)(None, steps)

    return setup, draw


def _stepwise(predict: Callable[..., Tensor], inputs: Inputs, branches: int) -> Draw:
    """``predict`` gives all branches of a step, (branches N, 2C, h, w), unconditional first."""

    class Called:
        def denoiser(
            self, condition: Tensor, timesteps: Sequence[int], scales: Sequence[float], _: Any
        ) -> Callable[[Tensor, int], Tensor]:
            def denoise(x: Tensor, i: int) -> Tensor:
                t = torch.full((len(x),), timesteps[i], device=x.device)
                out = predict(x, t, condition).to(x.dtype)
                if branches == BRANCHES:
                    return disentangled(out, *SCALES)
                without, given = out.chunk(2)
                return torch.lerp(without, given, scales[i])

            return denoise

    def draw(_: Any, steps: int) -> Tensor:
        nothing = inputs.noise.new_empty(len(inputs.noise), 0)
        return sample(Called(), inputs.noise, nothing, steps, GUIDANCE, POWER)  # type: ignore[arg-type]

    return draw


def _ours(model: XMDPT, inputs: Inputs, solver: str = "ddim") -> tuple[Callable[[], Tensor], Draw]:
    """As ``xmdpt sample`` draws."""

    @torch.no_grad()
    def setup() -> Tensor:
        return model.condition(inputs.pose, inputs.source, inputs.latents)

    def draw(condition: Tensor, steps: int) -> Tensor:
        return sample(model, inputs.noise, condition, steps, GUIDANCE, POWER, solver)

    return setup, draw


def _ours_disentangled(model: XMDPT, inputs: Inputs) -> tuple[Callable[[], Tensor], Draw]:
    """Three branches in one batch, with all else as ours."""
    nothing = torch.zeros_like(inputs.source), torch.zeros_like(inputs.latents)

    @torch.no_grad()
    def setup() -> Tensor:
        both = model.condition(inputs.pose, inputs.source, inputs.latents)
        posed = model.condition(inputs.pose, *nothing)
        return torch.cat([torch.zeros_like(both), posed, both])  # (3N, D)

    class Called:
        def denoiser(
            self, condition: Tensor, timesteps: Sequence[int], scales: Sequence[float], _: Any
        ) -> Callable[[Tensor, int], Tensor]:
            # scale 1: the branches are ours to make, in one batch
            inner = model.denoiser(condition, timesteps, [1.0] * len(scales))
            return lambda x, i: disentangled(inner(torch.cat([x] * BRANCHES), i), *SCALES)

    def draw(condition: Tensor, steps: int) -> Tensor:
        return sample(Called(), inputs.noise, condition, steps, GUIDANCE, POWER)  # type: ignore[arg-type]

    return setup, draw
