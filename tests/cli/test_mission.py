"""The workflow's commands, in an empty folder beside the raw dataset.

The encoders are toys, chosen by a variable, as are the few settings that make it short.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from short_way import SHORT

from xmdpt_cli.cli.app import run
from xmdpt_cli.model import SIZES
from xmdpt_cli.sampling import hub


@pytest.fixture(autouse=True)
def _beside_deepfashion(monkeypatch: pytest.MonkeyPatch) -> None:
    people = ["--people", "2", "--test-people", "2", "--views", "2", "--height", "64"]
    assert run(["synth", "--out", "DeepFashion", *people]) == 0
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)


def typed(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run a command line; returns stdout and stderr."""
    capsys.readouterr()
    program, *arguments = line.split()
    assert program == "xmdpt"
    assert run(arguments) == 0, line
    out, err = capsys.readouterr()
    return out, err


def files(folder: str) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in Path(folder).iterdir() if p.suffix == ".png"}


def test_the_workflow_in_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # a checkpoint of the real B has 2 GB; the real size is built in tests/model
    monkeypatch.setitem(SIZES, "B", (4, 192, 3))
    out, _ = typed("xmdpt prepare --root DeepFashion", capsys)
    assert out.splitlines()[-1] == "next: xmdpt train --preset fast/tokens-64"  # for a toy
    assert Path("data/32/dataset.json").is_file()
    out, err = typed("xmdpt train --size B", capsys)
    assert "data: data/32 (newest of 1), run: runs/B" in err
    assert out.splitlines()[-1] == "next: xmdpt sample"
    # without `xmdpt sample` in between: evaluate generates first
    out, err = typed("xmdpt evaluate --fid --ssim --lpips", capsys)
    taken = "model: runs/B at step 2 (newest of 1), data: data/32 (what runs/B was trained on)"
    assert f"{taken}, out: samples/B" in err
    rows = json.loads(Path("samples/B/metrics.json").read_text())["rows"]
    kinds = {name.partition("_")[0] for name in rows["generated"]}
    assert kinds == {"fid", "ssim", "lpips"}
    before = files("samples/B")
    assert len(before) == 4 + 1  # pairs, and the sheet

    # the same commands again: nothing is generated or trained again
    weights = Path("runs/B/model/model.safetensors").stat().st_mtime_ns
    typed("xmdpt prepare --root DeepFashion", capsys)
    out, err = typed("xmdpt train --size B", capsys)
    assert "data: data/32 (the dataset of runs/B)" in err
    assert "nothing to do, the run is at step 2 of 2: " in out
    typed("xmdpt sample", capsys)
    typed("xmdpt evaluate --fid --ssim --lpips", capsys)
    assert files("samples/B") == before
    assert Path("runs/B/model/model.safetensors").stat().st_mtime_ns >= weights

    # a missing image is generated with the settings of the others
    gone = next(name for name in before if "_2_" in name)
    Path("samples/B", gone).unlink()
    typed("xmdpt evaluate --fid --ssim --lpips", capsys)
    again = files("samples/B")
    assert set(again) == set(before)
    assert {name for name in before if before[name] != again[name]} <= {gone, "sheet.png"}

    typed("xmdpt", capsys)
    assert run(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in found["datasets"]] == ["data/32"]
    (trained,) = found["runs"]
    assert (trained["path"], trained["step"], trained["steps"]) == ("runs/B", 2, 2)
    (samples,) = found["samples"]
    assert (samples["path"], samples["images"], samples["complete"]) == ("samples/B", 4, True)
    measured = {name for name, value in rows["generated"].items() if value is not None}
    assert set(samples["metrics"]) == measured


def test_the_workflow_with_a_vae_and_two_sizes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XMDPT_PREPARE_RESOLUTION", "32 64")
    typed("xmdpt prepare --root DeepFashion", capsys)
    assert Path("data/64/dataset.json").is_file()
    typed("xmdpt train --size tiny --data data/32", capsys)
    _, err = typed("xmdpt finetune-vae --data data/32", capsys)
    assert "out: vae/32" in err
    # evaluate by itself would generate the pairs that --limit left out
    out, _ = typed("xmdpt sample --limit 2", capsys)
    assert "next: xmdpt evaluate --data data/32 --generated samples/tiny --fid" in out
    # its own dataset, although data/64 is newer, and the VAE fine-tuned on it
    out, err = typed("xmdpt sample", capsys)
    assert "next: xmdpt evaluate --fid --ssim --lpips" in out
    assert "data: data/32 (what runs/tiny was trained on)" in err
    assert "VAE: vae/32 (fine-tuned on this dataset), out: samples/tiny" in err
    _, err = typed("xmdpt evaluate --ssim", capsys)
    assert "VAE: vae/32" in err
    report = json.loads(Path("samples/tiny/metrics.json").read_text())
    assert "vae-reconstruction" in report["rows"]
    # a tiny decoder: where it is asked for, in a folder of its own
    out, err = typed("xmdpt finetune-vae --decoder tiny --data data/32", capsys)
    assert "out: vae-tiny/32" in err
    assert "xmdpt sample --vae vae-tiny/32" in out
    _, err = typed("xmdpt sample --vae tiny", capsys)
    assert "vae-tiny/32 (trained on this dataset), out: samples/tiny-tiny" in err
    _, err = typed("xmdpt evaluate --ssim --generated samples/tiny-tiny", capsys)
    assert "VAE: vae-tiny/32 (the tiny decoder of these samples)" in err
    # a model on the hub, with a tiny decoder of its own
    hub_id, snapshot = "me/it", Path("cache/snapshot").absolute()
    shutil.copytree("runs/tiny/model", snapshot)
    shutil.copytree("vae-tiny/32", snapshot / "vae-tiny")
    monkeypatch.setattr(hub, "fetch", lambda source: snapshot if source == hub_id else Path(source))
    typed(f"xmdpt evaluate --ssim --model {hub_id} --vae tiny --data data/32", capsys)
    report = json.loads(Path("samples/it-tiny/metrics.json").read_text())
    assert "vae-reconstruction" in report["rows"]
    # another VAE: images decoded by the previous one are kept and not mixed with new ones
    monkeypatch.setenv("XMDPT_FINETUNE_VAE_STEPS", "3")
    typed("xmdpt finetune-vae --data data/32 --out vae/again", capsys)
    _, err = typed("xmdpt evaluate --ssim", capsys)
    assert "VAE: vae/again (fine-tuned on this dataset), out: samples/tiny-vae" in err
    shutil.move("data/32/encoders", "encoders")  # with the dataset's own VAE
    _, err = typed("xmdpt evaluate --ssim --generated samples/tiny", capsys)
    assert "VAE: vae" not in err
    assert "no row for reconstructions, which need the VAE: data/32 was prepared with" in err
    shutil.move("encoders", "data/32/encoders")
    # trained further: its samples are written beside those of the earlier step
    monkeypatch.setenv("XMDPT_TRAIN_STEPS", "3")
    _, err = typed("xmdpt train --size tiny", capsys)
    assert "data: data/32 (the dataset of runs/tiny)" in err
    _, err = typed("xmdpt sample", capsys)
    assert "out: samples/tiny-step_0000003" in err
    assert len(files("samples/tiny")) == len(files("samples/tiny-step_0000003")) == 5
    _, err = typed("xmdpt evaluate --ssim --seeds 2", capsys)
    assert "out: samples/tiny-step_0000003-seeds" in err or "out: samples/tiny-seeds" in err
    # evaluated without a model: the dataset is found by the samples' record
    _, err = typed("xmdpt evaluate --ssim --generated samples/tiny", capsys)
    assert "data: data/32 (what samples/tiny was generated from)" in err
    assert run(["sample", "--steps", "5"]) == 1  # never over what is there
    assert "what differs: steps" in capsys.readouterr().err


def test_only_the_first_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    typed("xmdpt prepare --root DeepFashion", capsys)
    typed("xmdpt train --size tiny", capsys)
    typed("xmdpt evaluate --ssim --limit 1", capsys)
    report = json.loads(Path("samples/tiny/metrics.json").read_text())
    assert report["counts"]["generated"] == 1
    typed("xmdpt evaluate --ssim", capsys)
    report = json.loads(Path("samples/tiny/metrics.json").read_text())
    assert report["counts"]["generated"] == 4
    # a report that says more is not lost
    whole = Path("samples/tiny/metrics.json").read_bytes()
    _, err = typed("xmdpt evaluate --ssim --limit 2", capsys)
    assert "kept as samples/tiny/metrics-1.json" in err
    assert Path("samples/tiny/metrics-1.json").read_bytes() == whole
    assert {p.suffix for p in Path("samples/tiny").glob("metrics-1.*")} == {
        ".json",
        ".csv",
        ".html",
    }
    out, _ = typed("xmdpt status", capsys)
    assert "4 images of step 2" in " ".join(out.split())
    assert "native, of 2 images: ssim" in " ".join(out.split())


def test_an_image_of_another_pair_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    typed("xmdpt prepare --root DeepFashion", capsys)
    typed("xmdpt train --size tiny", capsys)
    typed("xmdpt sample", capsys)
    first, second = sorted(Path("samples/tiny").glob("*_2_*.png"))[:2]
    own = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert run(["evaluate", "--ssim"]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert f"{first} is not the generated image of its pair" in err
    first.unlink()
    typed("xmdpt evaluate --ssim", capsys)
    assert first.read_bytes() == own


def test_samples_of_another_model_are_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Trained anew under the same name, to the same step: its samples are not the old ones."""
    typed("xmdpt prepare --root DeepFashion", capsys)
    typed("xmdpt train --size tiny", capsys)
    typed("xmdpt evaluate --ssim", capsys)
    shutil.rmtree("runs/tiny")
    typed("xmdpt train --size tiny --seed 7", capsys)
    assert run(["evaluate", "--ssim"]) == 1
    err = capsys.readouterr().err
    assert "what differs: model" in err
    assert "--generated DIR; or delete samples/tiny" in err
    # another dataset at the place of the one that it was trained on
    shutil.rmtree("samples")
    shutil.rmtree("data/32")
    typed("xmdpt prepare --root DeepFashion --seed 3", capsys)
    assert run(["sample"]) == 1
    assert "is not found" in capsys.readouterr().err
    out, _ = typed("xmdpt status", capsys)
    assert "is not found" in out
