"""Nothing mixes tensors of a GPU with tensors of the processor: seen without a GPU, on tensors that
have a device and no data. Forward passes alone: gradients need a real device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from xmdpt_cli.bench.train import make_inputs
from xmdpt_cli.diffusion import Schedule
from xmdpt_cli.model import XMDPT
from xmdpt_cli.training.config import TrainConfig
from xmdpt_cli.training.step import TrainStep

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer")
N = 2


def on_gpu(value: Any, fake: FakeTensorMode, dtype: torch.dtype | None = None) -> Any:
    """A module's or a tuple's copy whose tensors lie on a GPU and hold nothing."""

    def moved(tensor: Tensor) -> Tensor:
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        with fake:
            return torch.empty(tensor.shape, dtype=kind, device="cuda")

    if isinstance(value, Tensor):
        return moved(value)
    if isinstance(value, tuple):
        parts = (on_gpu(part, fake, dtype) for part in value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if not isinstance(value, nn.Module):
        return value
    there: dict[int, Any] = {}
    for parameter in value.parameters():
        there[id(parameter)] = nn.Parameter(moved(parameter), parameter.requires_grad)
    for buffer in value.buffers():
        there[id(buffer)] = moved(buffer)
    return copy.deepcopy(value, there)


#: of the model and of the loss
EXTENSIONS = {"conditioning": "tokens", "positions": "rope", "qk_norm": True}
FLOW = {"conditioning": "tokens", "attention_flow_weight": 1e-3, "attention_flow_joints": 1.0}


@pytest.mark.parametrize("options", [{}, {"conditioning": "tokens"}, EXTENSIONS])
def test_sampling(options: dict[str, Any]) -> None:
    """As ``Sampler`` does it in bf16, with guidance and at a step without."""
    fake = FakeTensorMode()
    model = XMDPT.from_size("tiny", **options).eval().requires_grad_(False)
    given = make_inputs(model, N)
    net, given = on_gpu(model, fake, torch.bfloat16), on_gpu(given, fake, torch.bfloat16)
    with fake, torch.no_grad():
        condition = net.condition(given.pose_tokens, given.source_tokens, given.source)
        tokens = None
        if net.tokens is not None:
            maps = torch.empty(N, 3, 256, 256, device="cuda")
            tokens = net.token_conditions(given.source, maps, maps)
        denoise = net.denoiser(condition, [999, 10], [2.0, 1.0], tokens)
        noise = torch.empty(N, 4, 32, 32, device="cuda")
        for step in range(2):
            out = denoise(noise, step)
            assert (out.device.type, out.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize("extended", [False, True])
def test_the_losses_of_a_training_step(extended: bool) -> None:
    fake = FakeTensorMode()
    model, schedule = XMDPT.from_size("tiny", **(EXTENSIONS if extended else {})), Schedule()
    given = make_inputs(model, N)
    if extended:
        maps = torch.empty(N, 3, 256, 256)
        given = given._replace(pose_maps=(maps, maps), joints=torch.rand(N, 2, 18, 2))
    tables = {k: on_gpu(v, fake) for k, v in vars(schedule).items() if isinstance(v, Tensor)}
    schedule._set(**tables)
    config = TrainConfig(size="tiny", **(FLOW if extended else {}))  # type: ignore[arg-type]
    step = TrainStep(on_gpu(model, fake), config, schedule)
    inputs = on_gpu(given, fake)
    with fake:
        assert step(inputs).total.device.type == "cuda"
        forgotten = inputs._replace(noise=torch.empty(N, 4, 32, 32))
        with pytest.raises(RuntimeError, match="devices"):
            step(forgotten)
