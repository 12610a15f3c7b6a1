"""The demo compares its metrics with the baselines' and names those that are not better."""

from __future__ import annotations

from xmdpt_cli.toy.demo import compare_with_baselines, describe_comparison


def test_metrics_that_are_not_better_than_a_baseline_are_named() -> None:
    rows = {
        "generated": {"ssim_256": 0.5, "l1": 0.2, "fid_toyconv": 2.0},
        "copy-source": {"ssim_256": 0.4, "l1": 0.1, "fid_toyconv": 1.0},  # real images
        "mean-image": {"ssim_256": 0.6, "l1": 0.3, "fid_toyconv": 3.0},
    }
    compared = compare_with_baselines(rows)
    assert compared["copy-source"] == {"ssim_256": True, "l1": False}
    assert compared["mean-image"] == {"ssim_256": False, "l1": True, "fid_toyconv": True}
    assert describe_comparison(compared) == (
        "NOT better than copy-source in l1; NOT better than mean-image in ssim_256"
    )
    better = describe_comparison({"copy-source": {"l1": True}})
    assert better.startswith("better than")
