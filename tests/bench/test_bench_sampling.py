"""Sampling's measure: both ways draw the same, and the published one spends what it is said to."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from xmdpt_cli.bench import sampling
from xmdpt_cli.bench.plot import Line, line_chart
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.sampling import Inputs, main, our_way, published_way
from xmdpt_cli.bench.timing import randomise
from xmdpt_cli.model import XMDPT


@pytest.fixture
def model() -> XMDPT:
    model = XMDPT(
        depth=4, width=32, heads=4, latent_size=8, pose_length=5, pose_width=12, source_length=7,
        source_width=20,
    )  # fmt: skip
    randomise(model)
    return model.eval().requires_grad_(False)


def test_both_ways_draw_the_same(model: XMDPT) -> None:
    inputs = Inputs(model, 3)
    published, ours = published_way(model, inputs, 4)(), our_way(model, inputs, 4)()
    assert float((published - ours).abs().max() / published.abs().max()) < 1e-5


def test_the_published_way_wastes_what_it_is_said_to(
    model: XMDPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams through every block, twice a step; CANet as often. Ours: once through."""
    calls: Counter[str] = Counter()

    def counted(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda *_: calls.update([name]))

    made: list[PublishedXMDPT] = []

    def making(model: XMDPT) -> PublishedXMDPT:
        net = PublishedXMDPT(model)
        made.append(net)
        return net

    monkeypatch.setattr(sampling, "PublishedXMDPT", making)
    run = published_way(model, Inputs(model, 2), 3)
    counted("block", made[0].blocks[1])
    counted("canet", made[0].mlp_final)
    counted("our block", model.tdnet.blocks[1])
    assert model.canet is not None
    counted("our canet", model.canet)
    run()
    our_way(model, Inputs(model, 2), 3)()
    assert calls == {"block": 2 * 2 * 3, "canet": 2 * 3, "our block": 3, "our canet": 1}


def test_the_command_checks_before_it_measures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ["--size", "tiny", "--batch-size", "1", "--steps", "1", "--rounds", "1"]
    both = ["--impl", "published", "--impl", "ours"]
    main([*short, *both])
    out = capsys.readouterr().out
    assert "ours: differs from published by" in out
    assert "1.00x" in out
    monkeypatch.setattr(
        sampling, "our_way", lambda model, inputs, steps: lambda: torch.zeros_like(inputs.noise)
    )
    with pytest.raises(AssertionError, match="ours"):
        main([*short, *both])


def test_a_chart_has_its_lines_and_ticks() -> None:
    lines = [Line("a & b", [(4, 0.5), (8, 0.75), (50, 1.0)]), Line("c", [(8, 0.6)])]
    svg = line_chart(lines, "steps", "score", "title")
    assert "a &amp; b" in svg
    for tick in (">4<", ">8<", ">50<", ">0.5<", ">1<"):
        assert tick in svg
    assert svg.count("<circle") == 4
