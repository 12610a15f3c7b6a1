"""Implementations of sampling: equal results, with the stated work."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from xmdpt_cli.bench import implementations, sampling
from xmdpt_cli.bench.flops import flops
from xmdpt_cli.bench.implementations import (
    Generate,
    Implementation,
    Setting,
    Setup,
    baseline_implementations,
    xmdpt_implementations,
)
from xmdpt_cli.bench.published import PublishedXMDPT
from xmdpt_cli.bench.random_networks import Inputs
from xmdpt_cli.bench.sampling import measure_sampling
from xmdpt_cli.errors import ConfigError, XmdptError
from xmdpt_cli.model import kernels

TINY = Setting(torch.device("cpu"), torch.float32, 2, 64, compiled=False, tiny=True)


ONEDNN = kernels.has_onednn()
LAST = "oneDNN" if ONEDNN else "attention"  # of the implementations that are not compiled


@pytest.fixture(scope="module", autouse=True)
def one_processor() -> Iterator[None]:
    """The rows of a CPU on which oneDNN is faster, on any CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "onednn_is_faster", lambda: ONEDNN)
        yield


@pytest.fixture(scope="module")
def found(one_processor: None) -> dict[str, Implementation]:
    return {impl.name: impl for impl in xmdpt_implementations("tiny", TINY)}


def test_implementations_of_one_kind_give_the_same_result(found: dict[str, Implementation]) -> None:
    outputs: dict[str, list[torch.Tensor]] = {}
    for impl in found.values():
        if impl.same:
            outputs.setdefault(impl.same, []).append(impl.generate(impl.setup(), 3))
    assert {name: len(outs) for name, outs in outputs.items()} == {"cfg": 3 + ONEDNN, "dcfg": 2}
    for first, *others in outputs.values():
        for out in others:
            assert float((out - first).abs().max() / first.abs().max()) < 1e-5
    both = [outs[0] for outs in outputs.values()]
    assert float((both[0] - both[1]).abs().max() / both[0].abs().max()) > 1e-4


def test_every_implementation_does_its_work(found: dict[str, Implementation]) -> None:
    """Number of images that pass a block, and CANet, for two images and three steps."""
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
        ("20 steps", 2 * 2 * 3, 2),
        ("guidance distilled", 2 * 3, 2),
        ("4 steps distilled", 2 * 3, 2),
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
        assert impl.branches == (3 if "D-CFG" in name else 1 if "distilled" in name else 2)


@pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
def test_products_by_onednn_have_a_row_of_their_own(found: dict[str, Implementation]) -> None:
    def uses_onednn(name: str) -> bool:
        impl = found[name]
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
            impl.generate(impl.setup(), 1)
        return any("_linear_pointwise" in event.key for event in seen.key_averages())

    assert [name for name in found if uses_onednn(name)] == [
        "oneDNN", "20 steps", "cache", "guidance distilled", "4 steps distilled", "tiny decoder",
        "oneDNN, D-CFG",
    ]  # fmt: skip


def test_implementations_of_one_precision_share_their_weights() -> None:
    """They must fit into memory together: L has 2 GB of weights."""
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
            of_one = [p for p in one.parameters() if p.dim() > 1 and p.numel() > 10_000]
            assert len(large) == len(of_one) > 5


def test_the_gains_in_flop() -> None:
    """Size S: the 49.3 GFLOP of a published guided step become 24.2. Nothing is computed."""
    setting = Setting(torch.device("meta"), torch.float32, 1, compiled=False)
    counted = {}
    for impl in xmdpt_implementations("S", setting):
        state = impl.setup()
        counted[impl.name] = flops(lambda impl=impl, state=state: impl.generate(state, 1)) / 1e9
    assert counted["published"] == pytest.approx(49.3, rel=0.01)
    assert counted["pruned"] == pytest.approx(24.2, rel=0.01)
    assert counted["attention"] == pytest.approx(24.2, rel=0.01)
    assert counted["guidance distilled"] == pytest.approx(24.2 / 2, rel=0.01)
    assert counted["published, D-CFG"] == pytest.approx(1.5 * 49.3, rel=0.01)
    assert counted["attention, D-CFG"] == pytest.approx(1.5 * 24.2, rel=0.01)


def test_the_time_of_a_row_is_the_sum_of_its_parts() -> None:
    report = measure_sampling(
        ["tiny"], TINY, rounds=2, measured_steps=2, only=["published", "20 steps", "cache"]
    )
    rows = {row.key: row for row in report.rows}
    keys = list(rows)
    assert [row.implementation for row in rows.values()] == [
        "D-CFG", "D-CFG", "published", "20 steps", "cache",
    ]  # fmt: skip
    assert keys[0].startswith("PIDM-style tiny (1/4 of the widths, 64 px)")
    pidm, few = rows[keys[0]], rows["X-MDPT-tiny / 20 steps"]
    assert (pidm.forwards, few.forwards, few.steps_timed) == (150, 40, 2)
    assert rows["X-MDPT-tiny / cache"].forwards == 30
    # the pixel network has no decoder
    assert len(pidm.parts) == 2
    assert len(few.parts) == 3
    assert pidm.gflop == pytest.approx(150 * 2.24 + 0.56, rel=0.01)
    for row in rows.values():
        assert row.gflop is not None
        assert row.mfu is not None
        assert row.images_per_second == pytest.approx(8 / row.seconds.median)
        expected = row.gflop * 1e9 * row.images_per_second / report.peak["peak fp32"].median
        assert row.mfu.median == pytest.approx(expected, rel=0.5)
        assert row.mfu.median < 1.2
        # of two rounds, the median is the mean
        assert row.seconds.median == pytest.approx(sum(row.parts.values()))
    ratios = zip(pidm.seconds.rounds, few.seconds.rounds, strict=True)
    assert few.speedup["PIDM-style"].rounds == pytest.approx([a / b for a, b in ratios])
    steps = [rows[f"X-MDPT-tiny / {name}"].parts[f"X-MDPT-tiny / {name} / steps"]
             for name in ("published", "20 steps")]  # fmt: skip
    alone = few.speedup["published, steps alone"]
    assert alone.low <= steps[0] / steps[1] <= alone.high
    assert "base" not in few.speedup  # the row it adds to was not measured
    assert "PIDM-style" not in pidm.speedup


def test_steps_that_differ_are_timed_as_a_whole(found: dict[str, Implementation]) -> None:
    names = ("20 steps", "cache", "4 steps distilled", "tiny decoder")
    assert [found[name].timed(1) for name in names] == [1, 20, 4, 4]

    def work(name: str) -> float:
        """Of four steps, with every implementation."""
        impl = found[name]
        state = impl.setup()
        return flops(lambda: impl.generate(state, 4))

    assert work(LAST) == work("attention")
    # one branch of two is left out in every second step; a student has one
    assert work("cache") / work("20 steps") == pytest.approx(3 / 4, abs=0.01)
    assert work("4 steps distilled") / work("20 steps") == pytest.approx(1 / 2, abs=0.02)
    decoders = [flops(sampling._decoding(TINY, found[name])) for name in names[2:]]
    assert decoders[1] < decoders[0]


def test_nothing_is_timed_if_implementations_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    real = implementations.pruned

    def other(net: PublishedXMDPT, inputs: Inputs) -> tuple[Setup, Generate]:
        setup, generate = real(net, inputs)
        return setup, lambda state, steps: generate(state, steps) * 1.01

    monkeypatch.setattr(implementations, "pruned", other)
    monkeypatch.setattr(sampling, "time_calls", lambda *_: pytest.fail("timed"))
    with pytest.raises(XmdptError, match="pruned differs from X-MDPT-tiny / published by 1"):
        measure_sampling(["tiny"], TINY, baselines=False, measured_steps=1)


def test_an_unknown_implementation() -> None:
    with pytest.raises(ConfigError, match="no implementation is called 'fast'") as caught:
        measure_sampling(["tiny"], TINY, baselines=False, only=["fast"])
    assert "pruned" in caught.value.hint
