"""The last partial batch that PIDM's and PCDMs' evaluators leave out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmdpt_cli.cli.app import run
from xmdpt_cli.images import ImageArray
from xmdpt_cli.metrics.drop_last import full_batches, left_out
from xmdpt_cli.metrics.evaluate import Networks, evaluate
from xmdpt_cli.metrics.features import toy_features
from xmdpt_cli.metrics.fid import frechet_distance
from xmdpt_cli.metrics.lpips_metric import LpipsNetwork
from xmdpt_cli.metrics.protocols import get_protocol
from xmdpt_cli.metrics.reference_set import ReferenceSet, reference_statistics
from xmdpt_cli.report.evaluation_json import to_json
from xmdpt_cli.report.evaluation_page import page
from xmdpt_cli.report.evaluation_text import table

LPIPS = "lpips_alex_v0.1_toy"
SMALL = dataclasses.replace(get_protocol("pidm"), batches={"fid": 4, "lpips": 3})


def image(seed: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    return np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), 32, 0), 32, 1)


def test_full_batches_are_the_published_counts() -> None:
    """PIDM 8,512 of 8,570 pairs, PCDMs' FID 8,448."""
    pidm, pcdms = (get_protocol(name).batches for name in ("pidm", "pcdms"))
    assert full_batches(8570, pidm["fid"]) == full_batches(8570, pidm["lpips"]) == 8512
    assert full_batches(8570, pcdms["fid"]) == 8448
    assert full_batches(8570, pcdms["lpips"]) == 8512  # batches of 64 there too
    assert [full_batches(48_674, of["fid"]) for of in (pidm, pcdms)] == [48_640, 48_640]
    # their code makes the batch smaller where there are fewer images than one holds
    assert [full_batches(count, 64) for count in (0, 63, 64, 127, 128)] == [0, 63, 64, 64, 128]
    for name in ("cfld", "clean", "native"):
        assert get_protocol(name).batches == {}


def test_pairs_after_the_last_full_batch_by_name_are_left_out() -> None:
    assert left_out(["d", "a", "c", "b", "e"], 2) == [4]
    assert left_out(["d", "a", "c", "b", "e"], 3) == [0, 4]
    assert left_out(["b", "a"], 3) == []
    for count, kept in ((7, 6), (2, 2), (3, 3)):
        images = [image(k) for k in range(count)]
        three = dataclasses.replace(SMALL, batches={"fid": 3})
        toy = toy_features()
        [found] = reference_statistics(
            ReferenceSet(lambda images=images: images), [three], [toy], drop_last=True
        )
        assert (found.used, found.count) == (kept, count)
        expected = toy([three.ground_truth(one) for one in images[:kept]]).mean(0)
        assert found.features is not None
        np.testing.assert_allclose(found.features.mean, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def both() -> tuple[list[tuple[ImageArray, ImageArray, None, None, str]], list[ImageArray]]:
    names = ["e", "b", "a", "d", "c"]  # five pairs: FID sees a to d, LPIPS a to c
    pairs = [(image(k), image(k + 50), None, None, name) for k, name in enumerate(names)]
    return pairs, [image(100 + k) for k in range(6)]  # and of the six real ones four


def test_dropped_pairs_are_left_out_and_counted(
    both: tuple[list[tuple[ImageArray, ImageArray, None, None, str]], list[ImageArray]],
) -> None:
    pairs, real = both
    lpips, toy = LpipsNetwork("toy"), toy_features()
    networks = Networks(lpips, {"torchvision": toy}, kid=True)
    [whole] = evaluate(pairs, [SMALL], networks=networks, reference=ReferenceSet(lambda: real))
    [found] = evaluate(
        pairs, [SMALL], networks=networks, reference=ReferenceSet(lambda: real), drop_last=True
    )
    per_pair = {i["name"]: i["rows"]["generated"][LPIPS] for i in found.images}
    assert len(per_pair) == 5  # the values of single pairs are kept
    rows = found.rows["generated"]
    assert rows[LPIPS] == pytest.approx(np.mean([per_pair[name] for name in "abc"]))
    assert rows["psnr"] == whole.rows["generated"]["psnr"]  # of all pairs
    assert found.undefined == {}

    shown = {name: SMALL.generated(made) for made, _, _, _, name in pairs}
    ours = toy([shown[name] for name in "badc"]).astype(np.float64)
    theirs = toy([SMALL.ground_truth(one) for one in real[:4]]).astype(np.float64)
    expected = frechet_distance(
        ours.mean(0), np.cov(ours, rowvar=False), theirs.mean(0), np.cov(theirs, rowvar=False)
    )
    assert rows["fid_toyconv"] == pytest.approx(expected, rel=1e-4)
    assert rows["fid_toyconv"] != pytest.approx(whole.rows["generated"]["fid_toyconv"], rel=1e-3)

    distance = {
        "batch_size": 4, "used": 4, "of": 5, "dropped": ["e"],
        "reference_used": 4, "reference_of": 6,
    }  # fmt: skip
    assert to_json(found)["drop_last"] == {
        LPIPS: {"batch_size": 3, "used": 3, "of": 5, "dropped": ["d", "e"]},
        "fid_toyconv": distance,
        "kid_toyconv": distance,
    }
    assert to_json(whole)["drop_last"] == {}
    assert found.counts == whole.counts
    cells = {line[0]: line[1:] for line in table(found).rows}
    assert cells["images"] == ["5", "5", "5"]
    assert cells[f"images, {LPIPS}"] == ["3", "3", "-"]
    assert cells["images, fid_toyconv"] == ["4", "4", "4"]
    shown = page([found], lambda name: {}, title="t")
    assert "3 of 5 pairs" in shown
    assert "4 of 5 pairs and 4 of 6 images of the reference set" in shown
    [plain] = evaluate(
        pairs, [SMALL], networks=networks, reference=ReferenceSet(lambda: real), drop_last=True,
        only=["psnr"],
    )  # fmt: skip
    assert plain.drop_last == {}
    assert plain.rows["generated"] == {"psnr": rows["psnr"]}


def test_fewer_pairs_than_a_batch_are_all_measured(
    both: tuple[list[tuple[ImageArray, ImageArray, None, None, str]], list[ImageArray]],
) -> None:
    pairs, real = both
    networks = Networks(features={"torchvision": toy_features()})
    args = {"networks": networks, "reference": ReferenceSet(lambda: real), "intervals": False}
    [whole] = evaluate(pairs, [get_protocol("pidm")], **args)
    [found] = evaluate(pairs, [get_protocol("pidm")], drop_last=True, **args)
    assert found.rows == whole.rows
    assert found.drop_last["fid_toyconv"]["dropped"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "protocol cfld drops no batch"),
        (["--protocol", "cfld"], "protocol cfld drops no batch"),
        (["--protocol", "pidm", "--protocol", "clean"], "protocol clean drops no batch"),
        (["--protocol", "all"], "protocol cfld, clean drops no batch"),
        (["--protocol", "native"], "protocol native drops no batch"),
        (["--protocol", "pidm", "--psnr"], "only FID and LPIPS drop a batch, not psnr"),
    ],
)
def test_protocols_without_a_batch_size_refuse_drop_last(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", "--generated", "g", "--target", "t", "--drop-last", *options]
    assert run(line) == 2
    assert message in capsys.readouterr().err


def test_the_command_counts_dropped_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """66 pairs with the names of PIDM; ground truths are ``deepfashion....png``."""
    for folder in ("g", "t"):
        (tmp_path / folder).mkdir()
    for k in range(66):
        name = f"fashionMENDenimid{k:08d}01_1front"
        Image.fromarray(image(k)).save(tmp_path / "g" / f"{name}_2_{name}_vis.png")
        Image.fromarray(image(k + 1)).save(tmp_path / "t" / f"deep{name}.png")
    line = ["evaluate", "--generated", str(tmp_path / "g"), "--target", str(tmp_path / "t")]
    line += ["--inception-weights", "toyconv", "--fid", "--protocol", "pidm", "--drop-last"]
    assert run(line) == 0
    output = capsys.readouterr()
    assert "fid_toyconv is of 64 of 66 pairs and 64 of 66 images of the reference set" in output.err
    assert "no partner" not in output.err
    assert "images, fid_toyconv" in output.out
