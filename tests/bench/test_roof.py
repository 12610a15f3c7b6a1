"""The least possible time at published peaks."""

from __future__ import annotations

import pytest

from xmdpt_cli.bench.roof import Part, Peaks, known_peaks, roofs, sampling_parts
from xmdpt_cli.errors import ConfigError

H100 = Peaks("H100 at what products of matrices reach", 790e12, 3.35e12)


def test_roofs_of_eight_images_on_an_h100() -> None:
    """At 790 TFLOP/s: 0.019, 0.053 and 0.170 s for 8 images, decoding included."""
    report = roofs(["S", "B", "L"], [H100])
    seconds = [round(row.seconds[H100.name], 3) for row in report.rows]
    assert seconds == [0.019, 0.053, 0.170]
    assert all(row.bound[H100.name] == "compute" for row in report.rows)


def test_one_image_on_a_slow_memory_is_bound_by_the_weights() -> None:
    slow = Peaks("slow", 1e15, 1e9)
    (row,) = roofs(["S"], [slow], images=1, steps=10).rows
    assert row.bound["slow"] == "memory"
    canet, step, decoder = sampling_parts("S", 1, 10)
    expected = (canet.weights + 10 * step.weights + decoder.weights) / 1e9
    assert row.seconds["slow"] == pytest.approx(expected)


def test_a_part_takes_the_larger_of_compute_and_memory_time() -> None:
    assert Part("x", 100.0, 7, 3).seconds(Peaks("p", 10.0, 1.0)) == 30
    assert Part("x", 10.0, 7, 3).seconds(Peaks("p", 10.0, 1.0)) == 21


def test_flops_grow_with_images_and_weights_do_not() -> None:
    one, many = sampling_parts("S", 1, 50), sampling_parts("S", 8, 50)
    assert [b.flop / a.flop for a, b in zip(one, many, strict=True)] == pytest.approx([8, 8, 8])
    assert [p.weights for p in one] == [p.weights for p in many]
    fp32 = sampling_parts("S", 1, 50, precision="fp32")
    assert [p.weights for p in fp32] == [2 * p.weights for p in one]
    with pytest.raises(ConfigError, match="fp8"):
        sampling_parts("S", 1, 50, precision="fp8")


def test_the_published_peaks() -> None:
    known = {peaks.name: peaks for peaks in known_peaks()}
    assert known["H100"][1:] == (989.4e12, 3.35e12)
    assert known["A100"][1:] == (312e12, 2.039e12)
    assert all(1e13 < p.flops < 1e16 and 1e11 < p.bandwidth < 1e14 for p in known.values())
