"""The implementations of sampling that ``xmdpt bench`` compares, one gain after the other.

All implementations of one size have the same weights and inputs. Those with an equal
``Implementation.same`` are checked to give the same result before anything is timed. Conditions
(DINOv2 tokens, source latents) are given: ``xmdpt bench encode`` measures the encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xmdpt_cli.bench import generation as draws
from xmdpt_cli.bench.baselines import BASELINES, BRANCHES, sample_dcfg
from xmdpt_cli.bench.generation import Inputs
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.timing import precision, randomise
from xmdpt_cli.model import XMDPT, kernels
from xmdpt_cli.model.fast import compile_sampling
from xmdpt_cli.training.config import TrainConfig

STEPS = 50  # the paper's table
PIXELS_A_LATENT = 8


@dataclass(frozen=True)
class Implementation:
    """How one batch is generated: ``setup`` once, then ``generate`` from what it gave.

    ``generate(state, steps)`` gives latents, or images where not ``latent``. ``steps`` is what a
    whole image takes; ``forwards`` the network's calls for it. Ways of one model with an equal
    ``same`` draw the same latents.
    """

    model: str
    name: str
    network: nn.Module
    setup: Callable[[], Any]
    generate: Callable[[Any, int], Tensor]
    dtype: torch.dtype
    branches: int
    steps: int = STEPS
    latent: bool = True
    same: str = ""
    gain: str = ""  # what it adds to ``base``, the name of another implementation of this model
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
    """What all implementations of a run share."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    pixels: int = 256
    compiled: bool = True
    tiny: bool = False  # baselines cut down, for X-MDPT's tiny size


def baseline_implementations(setting: Setting) -> Iterator[Implementation]:
    """PIDM's and PoCoLD's kind (see ``baselines``); the three branches in one batch, as published
    and, for what the originals' code leaves undone, through torch.compile."""
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

        # default arguments: each keeps its own network
        def setup(network: Any = network, pose: Tensor = pose, source: Tensor = source) -> Any:
            with torch.no_grad():
                return network.encode(pose, source)

        impls: list[tuple[str, Any, str, str]] = [("D-CFG", network, "", "")]
        if setting.compiled:
            faster = torch.compile(network, dynamic=False)
            impls.append(("D-CFG, compiled", faster, "compile", "D-CFG"))
        for name, run, gain, base in impls:

            def draw(state: Any, steps: int, run: Any = run, noise: Tensor = noise) -> Tensor:
                return sample_dcfg(run, noise, state, steps)

            yield Implementation(
                " ".join([f"{named}-style", *tiny]), name, network, setup, draw, setting.dtype,
                BRANCHES, latent=baseline.latent, parameters=(held, held), same="dcfg",
                gain=gain, base=base,
            )  # fmt: skip


def xmdpt_implementations(size: str, setting: Setting) -> Iterator[Implementation]:
    """X-MDPT of ``size``, from the published computation to ours; each row adds one gain.

    - guidance: as published, but two branches a step, its own, instead of D-CFG's three;
    - pruning: no source stream, CANet once;
    - attention: fused, biases made once, timesteps and adaLN before the loop, branches batched;
    - oneDNN: products with weights by it, where it is the faster library (see ``model.kernels``);
    - compile: the same through torch.compile;
    - solver: the default few steps; precision: the other one than the run's;
    - and ours under D-CFG, for what guidance costs there.
    """
    model = _model(size, setting)
    inputs = Inputs.of(model, setting.batch).to(setting.device, setting.dtype)
    counts = model.parameter_counts()
    own = counts["training"], counts["inference"]
    named = f"X-MDPT-{size}"
    kernels.prepare(model, onednn=False)
    published = PublishedXMDPT(_twin(model, size, setting))

    def impl(name: str, network: nn.Module, setup: Any, draw: Any, **more: Any) -> Implementation:
        given = {"dtype": setting.dtype, "branches": 2, "same": "cfg", "parameters": own, **more}
        return Implementation(named, name, network, setup, draw, **given)

    draw = draws.published(published, inputs, BRANCHES)
    yield impl("published, D-CFG", published, lambda: None, draw, branches=BRANCHES, same="dcfg")
    draw = draws.published(published, inputs, 2)
    yield impl("published", published, lambda: None, draw, gain="guidance", base="published, D-CFG")
    yield impl(
        "pruned", published, *draws.pruned(published, inputs), gain="pruning", base="published"
    )
    yield impl("attention", model, *draws.ours(model, inputs), gain="attention", base="pruned")
    best, name = model, "attention"
    if setting.device.type == "cpu" and kernels.onednn_is_faster():
        best = _twin(model, size, setting)
        kernels.prepare(best)
        yield impl("oneDNN", best, *draws.ours(best, inputs), gain="oneDNN", base=name)
        name = "oneDNN"
    if setting.compiled:
        base, name = name, "compiled"
        best = _twin(model, size, setting)
        kernels.prepare(best)
        compile_sampling(best)
        yield impl(name, best, *draws.ours(best, inputs), gain="compile", base=base)
    config = TrainConfig()
    few, solver = config.sampling_steps, config.sampling_solver
    drawing = draws.ours(best, inputs, solver)
    yield impl(f"{few} steps", best, *drawing, steps=few, same="", gain="solver", base=name)
    other = torch.float32 if setting.dtype == torch.bfloat16 else torch.bfloat16
    changed = _model(size, setting).to(other)
    kernels.prepare(changed)
    if setting.compiled:
        compile_sampling(changed)
    drawing = draws.ours(changed, inputs.to(setting.device, other))
    yield impl(
        precision(other), changed, *drawing, dtype=other, same="", gain="precision", base=name
    )
    drawing = draws.ours_disentangled(best, inputs)
    yield impl(
        f"{name}, D-CFG", best, *drawing, branches=BRANCHES, same="dcfg", gain="guidance", base=name
    )


def _model(size: str, setting: Setting) -> XMDPT:
    torch.manual_seed(0)
    model = _of_size(size, setting)
    randomise(model)
    return model.eval().requires_grad_(False).to(setting.device, setting.dtype)


def _twin(model: XMDPT, size: str, setting: Setting) -> XMDPT:
    """Another model with the same weights in the same memory."""
    with torch.device("meta"):
        twin = _of_size(size, setting)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval().requires_grad_(False).to(setting.device)


def _of_size(size: str, setting: Setting) -> XMDPT:
    return XMDPT.from_size(size, latent_size=setting.pixels // PIXELS_A_LATENT)
