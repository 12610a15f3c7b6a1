"""The implementations of sampling that ``xmdpt bench`` compares; each adds one gain.

All implementations of one size have the same weights and inputs. Those with an equal
``Implementation.same`` must give the same result, which is checked before anything is timed.
Conditions (DINOv2 tokens, source latents) are inputs: ``xmdpt bench encode`` measures the encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.bench.baselines import BASELINES, BRANCHES, Baseline, disentangled, sample_dcfg
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.random_networks import (
    FEW,
    STUDENT,
    Inputs,
    random_xmdpt,
    sd_vae,
    taesd,
)
from xmdpt_cli.bench.timing import precision
from xmdpt_cli.diffusion import Guided, sample
from xmdpt_cli.diffusion.guidance import Denoise
from xmdpt_cli.diffusion.solvers import POLICY
from xmdpt_cli.model import XMDPT, kernels, parameter_counts
from xmdpt_cli.model.denoiser import compile_sampling
from xmdpt_cli.training.config import TrainConfig

STEPS = 50  # the paper's table
GUIDANCE, POWER = 2.0, 0.01  # paper sec. 4.1
SCALES = 2.0, 2.0  # of D-CFG; speed does not depend on them
CACHE = 2  # steps that share an unconditional branch (docs/faster-sampling.md)

#: what decodes latents: (device, dtype, divisor of its widths) -> a network of diffusers
DECODERS: dict[str, Callable[..., Any]] = {"decode": sd_vae, "tiny decoder": taesd}

Setup = Callable[[], Any]
Generate = Callable[[Any, int], Tensor]


@dataclass(frozen=True)
class Implementation:
    """A way to sample a batch: ``generate(setup(), steps)`` returns latents (N, C, h, w) for
    ``decoder``, or images if that is empty. ``setup`` computes what all steps share."""

    model: str
    name: str
    network: nn.Module
    setup: Setup
    generate: Generate
    dtype: torch.dtype
    branches: float  # forwards of a step, the mean
    steps: int = STEPS  # of an image
    decoder: str = "decode"  # a key of ``DECODERS``
    whole: bool = False  # its steps differ: all are timed
    same: str = ""  # implementations of a model with an equal value give the same result
    gain: str = ""  # what it adds to ``base``, the name of another implementation of this model
    base: str = ""
    parameters: tuple[int, int] = (0, 0)  # in training, in inference

    @property
    def key(self) -> str:
        return f"{self.model} / {self.name}"

    def timed(self, measured_steps: int) -> int:
        """The number of steps that are timed."""
        return self.steps if self.whole else min(measured_steps, self.steps)


@dataclass(frozen=True)
class Setting:
    """What all implementations of a run share."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    pixels: int = 256
    compiled: bool = True
    tiny: bool = False  # small baselines, for X-MDPT's tiny size


def baseline_implementations(setting: Setting) -> Iterator[Implementation]:
    """Networks like PIDM's and PoCoLD's (see ``baselines``), sampled by D-CFG with its three
    branches in one batch: as published, and with torch.compile, which their code does not use."""
    for make in BASELINES.values():
        baseline = make("tiny" if setting.tiny else "full")
        torch.manual_seed(0)
        with torch.device(setting.device):
            network = baseline.build().to(setting.dtype).eval().requires_grad_(False)
        yield baseline_implementation(baseline, network, setting)
        if setting.compiled:
            compiled = torch.compile(network, dynamic=False)
            yield replace(
                baseline_implementation(baseline, compiled, setting),
                name="D-CFG, compiled", gain="compile", base="D-CFG",
            )  # fmt: skip


def baseline_implementation(baseline: Baseline, network: Any, setting: Setting) -> Implementation:
    """``network`` of ``baseline``, compiled or not."""
    inputs = baseline.inputs(setting.batch)
    noise = inputs.noise.to(setting.device)
    pose, source = (x.to(setting.device, setting.dtype) for x in (inputs.pose, inputs.source))
    name, *tiny = baseline.name.split(" ", 1)
    parameters = sum(p.numel() for p in network.parameters())
    return Implementation(
        " ".join([f"{name}-style", *tiny]),
        "D-CFG",
        network,
        torch.no_grad()(lambda: network.encode(pose, source)),
        lambda conditions, steps: sample_dcfg(network, noise, conditions, steps),
        setting.dtype,
        BRANCHES,
        decoder="decode" if baseline.latent else "",
        same="dcfg",
        parameters=(parameters, parameters),
    )


def xmdpt_implementations(size: str, setting: Setting) -> Iterator[Implementation]:
    """X-MDPT of ``size``, from the published computation to that of ``xmdpt sample``.

    - guidance: as published, with X-MDPT's two branches per step instead of D-CFG's three;
    - pruning: no source view, CANet once;
    - attention: fused, biases computed once, timesteps and adaLN before the loop, one batch;
    - oneDNN: for products with weights, where it is the faster library (see ``model.kernels``);
    - compile: torch.compile;
    - solver: the default few steps, and with a cache across steps;
    - a distilled model: one branch, then few steps, then a tiny decoder;
    - precision: fp32 instead of bf16, or the reverse;
    - and the fastest implementation under D-CFG.
    """
    model = _model(size, setting, setting.dtype)
    inputs = Inputs.random(model, setting.batch).to(setting.device, setting.dtype)
    counts = parameter_counts(model)
    kernels.prepare(model, onednn=False)
    as_published = PublishedXMDPT(_twin(model, size, setting))

    def implementation(
        name: str, network: nn.Module, how: tuple[Setup, Generate], gain: str = "", base: str = "",
        *, dtype: torch.dtype = setting.dtype, branches: float = 2, same: str = "cfg",
        steps: int = STEPS, **more: Any,
    ) -> Implementation:  # fmt: skip
        return Implementation(
            f"X-MDPT-{size}", name, network, *how, dtype, branches, steps, same=same, gain=gain,
            base=base, parameters=(counts["training"], counts["inference"]), **more,
        )  # fmt: skip

    dcfg = published_dcfg(as_published, inputs)
    yield implementation("published, D-CFG", as_published, dcfg, same="dcfg", branches=BRANCHES)
    cfg = published(as_published, inputs)
    yield implementation("published", as_published, cfg, "guidance", "published, D-CFG")
    how = pruned(as_published, inputs)
    yield implementation("pruned", as_published, how, "pruning", "published")
    yield implementation("attention", model, fast(model, inputs), "attention", "pruned")
    best, name = model, "attention"
    if setting.device.type == "cpu" and kernels.onednn_is_faster():
        best = _twin(model, size, setting)
        kernels.prepare(best)
        yield implementation("oneDNN", best, fast(best, inputs), "oneDNN", name)
        name = "oneDNN"
    if setting.compiled:
        best = _twin(model, size, setting)
        kernels.prepare(best)
        compile_sampling(best)
        yield implementation("compiled", best, fast(best, inputs), "compile", name)
        name = "compiled"
    config = TrainConfig()
    few, solver = config.sampling_steps, config.sampling_solver
    default = f"{few} steps"
    how = fast(best, inputs, solver)
    yield implementation(default, best, how, "solver", name, same="", steps=few)
    how = fast(best, inputs, solver, cache=CACHE)
    cached = partial(implementation, branches=1 + 1 / CACHE, whole=True)
    yield cached("cache", best, how, "cache", default, same="", steps=few)
    student = _twin(model, size, setting, **STUDENT)
    kernels.prepare(student)
    if setting.compiled:
        compile_sampling(student)
    how = fast(student, inputs, solver)
    yield implementation(
        "guidance distilled", student, how, "guidance", default, same="", steps=few, branches=1
    )
    how = fast(student, inputs, POLICY)
    distilled = partial(implementation, same="", steps=FEW, branches=1, whole=True)
    name_few = f"{FEW} steps distilled"
    yield distilled(name_few, student, how, "steps", "guidance distilled")
    yield distilled("tiny decoder", student, how, "decoder", name_few, decoder="tiny decoder")
    other = torch.float32 if setting.dtype == torch.bfloat16 else torch.bfloat16
    rounded = _model(size, setting, setting.dtype).to(other)
    kernels.prepare(rounded)
    if setting.compiled:
        compile_sampling(rounded)
    how = fast(rounded, inputs.to(setting.device, other))
    yield implementation(precision(other), rounded, how, "precision", name, dtype=other, same="")
    how = fast_dcfg(best, inputs)
    yield implementation(
        f"{name}, D-CFG", best, how, "guidance", name, same="dcfg", branches=BRANCHES
    )


def published(net: PublishedXMDPT, inputs: Inputs) -> tuple[Setup, Generate]:
    """Each branch of guidance in its own call, which computes CANet and the source view."""

    def run(x: Tensor, t: Tensor, _: Tensor, keep: Tensor) -> Tensor:
        return net(x, t, inputs.pose, inputs.source, inputs.latents, keep)

    return lambda: _no_condition(inputs), _one_by_one(run, inputs)


def published_dcfg(net: PublishedXMDPT, inputs: Inputs) -> tuple[Setup, Generate]:
    """As ``published``, with D-CFG's branches: unconditional, pose alone, pose and source."""
    no_source = torch.zeros_like(inputs.source), torch.zeros_like(inputs.latents)

    def run(x: Tensor, t: Tensor, _: Tensor, keep: Tensor) -> Tensor:
        latents = x.to(inputs.latents.dtype)
        outs = [
            net(latents, t, inputs.pose, inputs.source, inputs.latents, ~keep),
            net(latents, t, inputs.pose, *no_source, keep),
            net(latents, t, inputs.pose, inputs.source, inputs.latents, keep),
        ]
        return disentangled(torch.cat(outs).to(x.dtype), *SCALES)

    def generate(condition: Tensor, steps: int) -> Tensor:
        return sample(Guided(run), inputs.noise, condition, steps, guidance=1.0)

    return lambda: _no_condition(inputs), generate


def pruned(net: PublishedXMDPT, inputs: Inputs) -> tuple[Setup, Generate]:
    """As ``published`` without the source view, and with CANet once."""

    def run(x: Tensor, t: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        return net.model(x, t, condition, keep=keep)

    return _condition(net.model, inputs), _one_by_one(run, inputs)


def fast(
    model: XMDPT, inputs: Inputs, solver: str = "ddim", cache: int = 1
) -> tuple[Setup, Generate]:
    """As ``xmdpt sample`` computes it (``model.denoiser``)."""

    def generate(condition: Tensor, steps: int) -> Tensor:
        return sample(model, inputs.noise, condition, steps, GUIDANCE, POWER, solver, cache=cache)

    return _condition(model, inputs), generate


def fast_dcfg(model: XMDPT, inputs: Inputs) -> tuple[Setup, Generate]:
    """As ``fast``, with D-CFG's three branches in one batch."""

    @torch.no_grad()
    def setup() -> Tensor:
        both = model.condition(inputs.pose, inputs.source, inputs.latents)
        no_source = torch.zeros_like(inputs.source), torch.zeros_like(inputs.latents)
        posed = model.condition(inputs.pose, *no_source)
        return torch.cat([torch.zeros_like(both), posed, both])  # (3N, D)

    def generate(conditions: Tensor, steps: int) -> Tensor:
        return sample(_Disentangled(model), inputs.noise, conditions, steps, guidance=1.0)

    return setup, generate


class _Disentangled:
    """X-MDPT guided by D-CFG. The condition (3N, D) holds the three branches."""

    def __init__(self, model: XMDPT) -> None:
        self.model = model

    def denoiser(
        self,
        condition: Tensor,
        timesteps: Sequence[int],
        cfg_scales: Sequence[float],  # all 1: the model adds no branch
        tokens: Any = None,
        cache: int = 1,
    ) -> Denoise:
        predict = self.model.denoiser(condition, timesteps, cfg_scales)
        return lambda x, i: disentangled(predict(torch.cat([x] * BRANCHES), i), *SCALES)


def _no_condition(inputs: Inputs) -> Tensor:
    """The (N, 0) condition of networks that read their conditions from ``inputs``."""
    return inputs.noise.new_empty(len(inputs.noise), 0)


def _condition(model: XMDPT, inputs: Inputs) -> Setup:
    return torch.no_grad()(lambda: model.condition(inputs.pose, inputs.source, inputs.latents))


def _one_by_one(
    run: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], inputs: Inputs
) -> Generate:
    """Sampling whose two branches are computed one after the other by ``run(x, t, c, keep)``."""
    n, dtype = len(inputs.noise), inputs.latents.dtype

    def network(x: Tensor, t: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        branches = zip(*(v.split(n) for v in (x.to(dtype), t, condition, keep)), strict=True)
        return torch.cat([run(*branch).to(x.dtype) for branch in branches])

    guided = Guided(network)
    return lambda c, steps: sample(guided, inputs.noise, c, steps, GUIDANCE, POWER)


def _model(size: str, setting: Setting, dtype: torch.dtype) -> XMDPT:
    model = random_xmdpt(size, setting.pixels)
    return model.eval().requires_grad_(False).to(setting.device, dtype)


def _twin(model: XMDPT, size: str, setting: Setting, **settings: Any) -> XMDPT:
    """Another model with the same weights in the same memory; random ones where ``settings`` add
    some."""
    with torch.device("meta"):
        twin = XMDPT.from_size(size, latent_size=setting.pixels // 8, **settings)
    weights = model.state_dict()
    shared = {
        name: weights[name] if name in weights else 0.02 * torch.randn(meta.shape).to(setting.dtype)
        for name, meta in twin.state_dict().items()
    }
    twin.load_state_dict(shared, assign=True)
    return twin.eval().requires_grad_(False).to(setting.device)
