"""What is compared in speed: the same images, the stated work, in full."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from xmdpt_cli.bench import generation as draws
from xmdpt_cli.bench import throughput
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.implementations import (
    Implementation,
    Setting,
    baseline_implementations,
    xmdpt_implementations,
)
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.throughput import measure
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import kernels

TINY = Setting(torch.device("cpu"), torch.float32, 2, 64, compiled=False, tiny=True)


ONEDNN = kernels.has_onednn()
LAST = "oneDNN" if ONEDNN else "attention"  # of the implementations that are not compiled


@pytest.fixture(scope="module", autouse=True)
def one_processor() -> Iterator[None]:
    """The rows of a processor on which oneDNN is faster, wherever this runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "onednn_is_faster", lambda: ONEDNN)
        yield


@pytest.fixture(scope="module")
def found(one_processor: None) -> dict[str, Implementation]:
    return {impl.name: impl for impl in xmdpt_implementations("tiny", TINY)}


def test_ways_that_are_to_draw_the_same_do(found: dict[str, Implementation]) -> None:
    drawn: dict[str, list[torch.Tensor]] = {}
    for impl in found.values():
        if impl.same:
            drawn.setdefault(impl.same, []).append(impl.generate(impl.setup(), 3))
    assert {name: len(outs) for name, outs in drawn.items()} == {"cfg": 3 + ONEDNN, "dcfg": 2}
    for first, *others in drawn.values():
        for out in others:
            assert float((out - first).abs().max() / first.abs().max()) < 1e-5
    both = [outs[0] for outs in drawn.values()]
    assert float((both[0] - both[1]).abs().max() / both[0].abs().max()) > 1e-4


def test_every_way_does_the_work_that_it_is_said_to(found: dict[str, Implementation]) -> None:
    """Passes of images through one block, and CANet's, for two images and three steps."""
    seen: Counter[str] = Counter()

    def counted(module: torch.nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(
            lambda _, given, __: seen.update({name: given[0].shape[0]})
        )

    for name, block, canet in (
        ("published, D-CFG", 2 * 3 * 2 * 3, 2 * 3 * 3),  # both streams, three branches, three steps
        ("published", 2 * 2 * 2 * 3, 2 * 2 * 3),
        ("pruned", 2 * 2 * 3, 2),
        ("attention", 2 * 2 * 3, 2),
        (LAST, 2 * 2 * 3, 2),
        (f"{LAST}, D-CFG", 2 * 3 * 3, 2 * 2),
    ):
        seen.clear()
        impl = found[name]
        model = getattr(impl.network, "model", impl.network)
        handles = [counted(model.tdnet.blocks[1].attn, "block"), counted(model.canet, "canet")]
        impl.generate(impl.setup(), 3)
        for handle in handles:
            handle.remove()
        assert seen == {"block": block, "canet": canet}, name
        assert impl.forwards == 50 * impl.branches


@pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
def test_products_by_onednn_have_a_row_of_their_own(found: dict[str, Implementation]) -> None:
    def asked(name: str) -> bool:
        impl = found[name]
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
            impl.generate(impl.setup(), 1)
        return any("_linear_pointwise" in event.key for event in seen.key_averages())

    assert [name for name in found if asked(name)] == ["oneDNN", "20 steps", "oneDNN, D-CFG"]


def test_ways_of_one_precision_share_their_weights() -> None:
    """Beside each other they are to fit into memory: L's are 2 GB."""
    setting = dataclasses.replace(TINY, compiled=True)
    for impls in (
        list(xmdpt_implementations("tiny", setting)),
        list(baseline_implementations(setting)),
    ):
        compiled = [impl.name for impl in impls if impl.gain == "compile"]
        assert compiled
        for model in {impl.model for impl in impls}:
            large = {  # the weights of MLPs and convolutions
                parameter.data_ptr()
                for impl in impls
                if impl.model == model and impl.dtype == torch.float32
                for parameter in impl.network.parameters()
                if parameter.dim() > 1 and parameter.numel() > 10_000
            }
            one = next(impl.network for impl in impls if impl.model == model)
            own = [p for p in one.parameters() if p.dim() > 1 and p.numel() > 10_000]
            assert len(large) == len(own) > 5


def test_the_gains_less_work() -> None:
    """Size S: the 49.3 GFLOP of a published guided step become 24.2."""
    setting = Setting(torch.device("cpu"), torch.float32, 1, compiled=False)
    counted = {}
    for impl in xmdpt_implementations("S", setting):
        state = impl.setup()
        counted[impl.name] = flops(lambda impl=impl, state=state: impl.generate(state, 1)) / 1e9
    assert counted["published"] == pytest.approx(49.3, rel=0.01)
    assert counted["pruned"] == pytest.approx(24.2, rel=0.01)
    assert counted["attention"] == pytest.approx(24.2, rel=0.01)
    assert counted["published, D-CFG"] == pytest.approx(1.5 * 49.3, rel=0.01)
    assert counted[LAST] == counted["attention"]
    assert counted[f"{LAST}, D-CFG"] == pytest.approx(1.5 * 24.2, rel=0.01)


def test_a_report_adds_its_parts_up() -> None:
    report = measure(["tiny"], TINY, rounds=2, measured_steps=2, only=["published", "20 steps"])
    rows = {row["key"]: row for row in report["rows"]}
    keys = list(rows)
    assert [key.split(" / ")[1] for key in keys] == ["D-CFG", "D-CFG", "published", "20 steps"]
    assert keys[0].startswith("PIDM-style tiny (1/4 of the widths, 64 px)")
    pidm, few = rows[keys[0]], rows["X-MDPT-tiny / 20 steps"]
    assert (pidm["forwards"], few["forwards"], few["steps_timed"]) == (150, 40, 2)
    # the pixel network has no decoder
    assert len(pidm["parts"]) == 2
    assert len(few["parts"]) == 3
    assert pidm["gflop"] == pytest.approx(150 * 2.24 + 0.56, rel=0.01)
    for row in rows.values():
        peak = report["peak"]["peak fp32"]["median"]
        assert row["images_per_second"] == pytest.approx(8 / row["seconds"]["median"])
        expected = row["gflop"] * 1e9 * row["images_per_second"] / peak
        assert row["mfu"]["median"] == pytest.approx(expected, rel=0.5)
        assert row["mfu"]["median"] < 1.2
    ratio = few["over_pidm"]["rounds"]
    assert ratio == pytest.approx([
        a / b for a, b in zip(pidm["seconds"]["rounds"], few["seconds"]["rounds"], strict=True)
    ])  # fmt: skip
    parts = "X-MDPT-tiny / 20 steps / steps"
    assert few["denoising"]["median"] == pytest.approx(few["parts"][parts])
    assert few["denoising_over_published"]["median"] > 0
    assert few["over_base"] is None  # what it adds to was not asked for
    assert pidm["over_pidm"] is None


def test_nothing_is_timed_where_ways_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    real = draws.pruned

    def other(net: PublishedXMDPT, inputs: draws.Inputs) -> tuple[draws.Setup, draws.Draw]:
        setup, draw = real(net, inputs)
        return setup, lambda state, steps: draw(state, steps) * 1.01

    monkeypatch.setattr(draws, "pruned", other)
    monkeypatch.setattr(throughput, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(XmdptError, match="pruned differs from X-MDPT-tiny / published by 1"):
        measure(["tiny"], TINY, baselines=False, measured_steps=1)


def test_a_way_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="no implementation is called 'fast'") as caught:
        measure(["tiny"], TINY, baselines=False, only=["fast"])
    assert "pruned" in caught.value.hint
