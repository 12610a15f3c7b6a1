"""The complete workflow on synthetic people, and on real photographs if they are available."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_ranks import run_commands
from forked import Forked, start_ranks, xmdpt
from PIL import Image

from xmdpt_cli.cli.app import run

Capture = pytest.CaptureFixture[str]


def ok(*arguments: object) -> None:
    assert run([str(a) for a in arguments]) == 0


def result(capsys: Capture, *arguments: object) -> dict[str, object]:
    """Run with --json and parse what stdout holds: nothing but one object."""
    capsys.readouterr()
    ok(*arguments, "--json")
    parsed: dict[str, object] = json.loads(capsys.readouterr().out)
    return parsed


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people, prepared with toy encoders and trained for a few steps."""
    work = tmp_path_factory.mktemp("way")
    ok("synth", "--out", work / "raw", "--people", 3, "--test-people", 2, "--height", 64)
    toy = ["--encoders", "toy", "--resolution", 32, "--vae-steps", 3]
    ok("prepare", "--root", work / "raw", "--out", work / "data", *toy)
    train(work, "run")
    return work


def train(work: Path, name: str, *more: object) -> None:
    ok(
        "train", "--data", work / "data", "--out", work / name, "--preset", "demo/tokens-64",
        "--steps", 3, "--batch-size", 4, *more,
    )  # fmt: skip


def sample(work: Path, out: Path, *more: object) -> list[object]:
    model = work / "run" / "model"
    return ["sample", "--data", work / "data", "--model", model, "--out", out, "--steps", 2, *more]


def test_sample_then_evaluate(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "samples"
    made = result(capsys, *sample(work, out))
    assert made["images"] == 4
    assert made["toy"] is True
    names = sorted(p.name for p in out.glob("*_2_*.png"))
    assert len(names) == 4
    assert all(name.startswith("fashion") and "_1front" in name + "_1front" for name in names)
    assert Image.open(out / "sheet.png").width > 4 * 32
    numbers = result(capsys, "evaluate", "--data", work / "data", "--generated", out, "--synthetic")
    rows = numbers["rows"]
    assert isinstance(rows, dict)
    compared = {"generated", "copy-source", "mean-image", "vae-reconstruction"}
    assert set(rows) == {*compared, "ground-truth"}
    assert set(rows["ground-truth"]) == {"fid_toyconv"}
    for metric in ("ssim_256", "psnr", "l1", "lpips_alex_v0.1_toy", "fid_toyconv"):
        assert metric in rows["generated"]
    assert (
        "fid_tvinception" not in rows["generated"]
    )  # a random network's distance never has that name
    assert json.loads((out / "metrics.json").read_text())["counts"]["generated"] == 4


def test_an_image_depends_only_on_seed_and_pair(work: Path, tmp_path: Path) -> None:
    ok(*sample(work, tmp_path / "one", "--batch-size", 1))
    ok(*sample(work, tmp_path / "many", "--batch-size", 4))
    ok(*sample(work, tmp_path / "other", "--seed", 1))
    for path in (tmp_path / "one").glob("*_2_*.png"):
        one = np.asarray(Image.open(path)).astype(int)
        many = np.asarray(Image.open(tmp_path / "many" / path.name)).astype(int)
        other = np.asarray(Image.open(tmp_path / "other" / path.name)).astype(int)
        assert np.abs(one - many).max() <= 1  # the sums of a matrix product round otherwise
        assert np.abs(one - other).max() > 8


def test_sampling_resumes(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "samples"
    ok(*sample(work, out, "--batch-size", 1))
    files = sorted(out.glob("*_2_*.png"))
    before = {p: p.read_bytes() for p in files}
    files[1].unlink()
    files[2].write_bytes(before[files[2]][:50])  # cut short
    kept = files[0].stat().st_mtime_ns
    ok(*sample(work, out, "--batch-size", 1))
    assert {p: p.read_bytes() for p in files} == before
    assert files[0].stat().st_mtime_ns == kept
    capsys.readouterr()
    assert run([str(a) for a in sample(work, out, "--guidance", 3.5)]) == 1
    assert "what differs: guidance (there 1.25, now 3.5)" in capsys.readouterr().err


def test_evaluate_two_folders(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    Image.fromarray(image).save(tmp_path / "a" / "alone.png")
    off = ["--alexnet-weights", "off", "--inception-weights", "off"]
    args = ["evaluate", "--generated", tmp_path / "a", "--target", tmp_path / "b", *off]
    rows = result(capsys, *args)["rows"]
    assert isinstance(rows, dict)
    assert set(rows["generated"]) == {"ssim_w51", "ssim_256", "psnr", "l1", "mae"}
    # the contact sheet is one image more, named only if `xmdpt sample` has not written it
    Image.fromarray(image).save(tmp_path / "a" / "sheet.png")
    ok(*args)
    assert "sheet.png" in capsys.readouterr().err
    (tmp_path / "a" / "samples.json").write_text("{}")
    ok(*args)
    shown = capsys.readouterr().err
    assert f"no partner for {tmp_path / 'a' / 'alone.png'}" in shown.replace("\n", "")
    assert "sheet.png" not in shown


def test_evaluate_by_every_protocol(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(1)
    for folder, height in (("made", 256), ("true", 300)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            image = rng.integers(0, 256, (height, height * 11 // 16, 3), dtype=np.uint8)
            path = tmp_path / folder / f"{'person_2_' if folder == 'made' else ''}{name}.png"
            Image.fromarray(image).save(path)
    args = ["evaluate", "--generated", tmp_path / "made", "--target", tmp_path / "true"]
    args += ["--alexnet-weights", "toy", "--inception-weights", "toyconv"]
    args += ["--tf-inception-weights", "toyconv"]
    printed = result(capsys, *args, "--protocol", "all", "--kid", "--reference")
    reports = {printed["protocol"]: printed, **{one["protocol"]: one for one in printed["others"]}}
    assert list(reports) == ["cfld", "pidm", "pcdms", "clean"]
    for name, report in reports.items():
        found = report["rows"]["generated"]
        assert ("ssim" in found, "ssim_w51" in found) == (name == "clean", name != "clean")
        assert ("lpips_alex_v0.1_toy_unsigned" in found) == (name == "pcdms")
        assert {"fid_toyconv", "kid_toyconv"} <= set(found)
        counts = {"generated": 2, "mean-image": 2, "reference-set": 2, "ground-truth": 2}
        assert report["counts"] == counts
        # the targets are the real set
        assert report["rows"]["ground-truth"]["fid_toyconv"] == pytest.approx(0, abs=1e-6)
    # predictions of 176x256 already: cfld and clean differ in the networks alone
    psnr = {name: report["rows"]["generated"]["psnr"] for name, report in reports.items()}
    assert psnr["cfld"] == psnr["clean"]
    assert len(set(psnr.values())) == 3
    made = tmp_path / "made"
    rows = list(csv.DictReader((made / "metrics.csv").open()))
    assert len(rows) == 4 * 2 * 2  # protocols, rows, images
    page = (made / "metrics.html").read_text()
    assert "8.0126" in page
    assert "Protocol pcdms" in page
    ok(*args, "--protocol", "all")
    output = capsys.readouterr().out
    assert "generated, by protocol" in output
    assert "±" in output
    some = result(capsys, *args, "--protocol", "pidm", "--ssim", "--psnr", "--no-intervals")
    assert set(some["rows"]["generated"]) == {"ssim_w51", "ssim_256", "psnr"}
    assert (some["intervals"], some["weights"], some["toy"]) == ({}, {}, [])
    assert run([str(a) for a in [*args, "--protocol", "fid"]]) == 2
    assert "'cfld', 'pidm', 'pcdms', 'clean', 'native'" in capsys.readouterr().err
    large = result(capsys, *args, "--protocol", "cfld", "--height", "512", "--psnr")
    assert large["sizes"] == ["352x512"]


def test_evaluate_generates_missing_images(work: Path, tmp_path: Path, capsys: Capture) -> None:
    model = tmp_path / "model"
    shutil.copytree(work / "run" / "model", model)
    args = ["evaluate", "--model", model, "--data", work / "data", "--psnr"]
    first = result(capsys, *args)
    images = sorted(Path("samples/model").glob("*_2_*.png"))
    assert len(images) == 4
    stamps = [path.stat().st_mtime_ns for path in images]
    images[0].unlink()
    assert result(capsys, *args)["rows"] == first["rows"]
    again = [path.stat().st_mtime_ns for path in images]
    assert again[1:] == stamps[1:]
    assert again[0] > stamps[0]
    page = Path("samples/model/metrics.html").read_text()
    assert "toy" in page.lower()
    assert page.count("<img") >= 4 * 4  # source, pose, truth, generated of every pair


def test_evaluate_over_seeds_and_views(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "generated"
    args = ["evaluate", "--model", work / "run", "--data", work / "data", "--generated", out]
    printed = result(capsys, *args, "--seeds", 2, "--psnr")
    found = printed["seeds"]["native"]["psnr"]
    singles = []
    for k in range(2):
        alone = ["evaluate", "--data", work / "data", "--generated", out / f"seed_{k}", "--psnr"]
        singles.append(result(capsys, *alone)["rows"]["generated"]["psnr"])
    assert found["values"] == singles
    assert singles[0] != singles[1]
    assert found["mean"] == pytest.approx(np.mean(singles))
    assert found["std"] == pytest.approx(np.std(singles, ddof=1))
    assert json.loads((out / "metrics.json").read_text())["seeds"] == printed["seeds"]
    # one pose, two views of a person, and another's: cosines of condition vectors
    assert set(printed["condition"]) == {f"condition_similarity_{w}" for w in ("views", "people")}
    assert all(-1 <= value <= 1 + 1e-9 for value in printed["condition"].values())
    ok(*args, "--seeds", 2, "--psnr")
    output = capsys.readouterr().out
    assert "over seeds" in output
    assert "condition_similarity_views" in output


def test_two_processes_evaluate_like_one(work: Path, tmp_path: Path) -> None:
    """The same file to the byte; and an image that only one of them meets is an error of both."""
    out = tmp_path / "generated"
    ok(*sample(work, out))
    known = Image.open(next(out.glob("*_2_*.png")))
    made, true, damaged = (tmp_path / name for name in ("made", "true", "damaged"))
    for folder, turned in ((made, 0), (true, 180)):
        folder.mkdir()
        for i in range(19):
            known.rotate(turned + i).save(folder / f"{i:02d}.png")
    shutil.copytree(made, damaged)
    broken = damaged / "01.png"
    broken.write_bytes(broken.read_bytes()[:60])
    options = ["--target", true, "--kid", "--alexnet-weights", "off"]
    options += ["--inception-weights", "toyconv", "--protocol", "cfld", "--protocol", "pidm"]
    evaluations = {
        "folders": ["evaluate", "--generated", made, *options],
        "data": ["evaluate", "--generated", out, "--data", work / "data"],
        "no network": ["evaluate", "--generated", made, "--target", true, "--lpips"],
        "broken image": ["evaluate", "--generated", damaged, *options],
    }
    two = {name: tmp_path / f"{name}.json" for name in evaluations}
    commands = [[str(w) for w in [*args, "--out", two[n]]] for n, args in evaluations.items()]
    ranks = start_ranks(2, run_commands, tmp_path, commands)
    assert all(rank.wait() for rank in ranks)  # the exit code of the last command
    output, errors = map("".join, zip(*(rank.communicate() for rank in ranks), strict=True))
    codes = [json.loads((tmp_path / f"codes-{rank}.json").read_text())[:3] for rank in (0, 1)]
    assert codes == [[0, 0, 1]] * 2, errors
    assert output.count("generated, by protocol") == 1  # one of them speaks
    for name in ("folders", "data"):
        ok(*evaluations[name], "--out", tmp_path / "one.json")
        assert (tmp_path / "one.json").read_text() == two[name].read_text()
    # a network that is not there: rank 0 says it for both
    assert errors.count("alexnet, for LPIPS, is not on this machine") == 1
    assert not two["no network"].exists()
    assert f"broken image: {broken}" in errors
    assert not two["broken image"].exists()


def test_finetuning_changes_only_the_decoder(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "vae"
    stats = result(capsys, "finetune-vae", "--data", work / "data", "--out", out, "--steps", 2)
    assert stats["decoder_only"] is True
    assert isinstance(stats["psnr"], float)
    assert (out / "diffusion_pytorch_model.safetensors").is_file()
    ok(*sample(work, tmp_path / "samples", "--vae", out, "--limit", 1))


def test_the_workflow_with_the_vector_model(work: Path, tmp_path: Path) -> None:
    ok(
        "train", "--data", work / "data", "--out", work / "vector", "--size", "tiny",
        "--steps", 2, "--batch-size", 2, "--ema-warmup",
    )  # fmt: skip
    facts = json.loads((work / "vector/model/xmdpt.json").read_text())
    assert (facts["prediction"], facts["schedule"]) == ("epsilon", "linear")
    args = ["sample", "--data", work / "data", "--model", work / "vector/model"]
    ok(*args, "--out", tmp_path / "samples", "--steps", 2, "--limit", 1)


@pytest.mark.usefixtures("short_estimates")
def test_dry_run_writes_nothing(work: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = result(
        capsys, "train", "--data", work / "data", "--out", tmp_path / "no", "--preset",
        "paper/S-256", "--dry-run",
    )  # fmt: skip
    assert not (tmp_path / "no").exists()
    assert plan["toy"] is True
    assert isinstance(plan["config"], dict)
    assert plan["config"]["batch_size"] == 32
    for number in ("seconds", "memory_bytes", "disk"):
        assert plan[number] > 0  # type: ignore[operator]


@pytest.mark.usefixtures("short_estimates")
def test_a_dry_run_shows_settings_time_and_memory(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    capsys.readouterr()
    ok(
        "train", "--data", work / "data", "--out", tmp_path / "no", "--size", "tiny", "--ema", 0.9,
        "--batch-size", "auto", "--dry-run",
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    begins = [line.split(":")[0] for line in lines[:5]]
    assert begins == ["plan", "parameters", "time", "memory", "disk"]
    assert lines[5:] == [
        "settings that differ from the defaults:",
        '  size = "tiny"  (default "S")',
        '  batch_size = "auto"  (default 32)',
        "  ema = 0.9  (default 0.9999)",
        "nothing was written (--dry-run)",
    ]


def test_a_dry_run_refuses_what_the_training_would(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    plan = ["train", "--data", str(work / "data"), "--out", str(tmp_path / "no"), "--dry-run"]
    plan += ["--size", "tiny", "--batch-size", "4"]
    assert run([*plan, "--accumulate", "3"]) == 2
    assert "a batch of 4 cannot be cut into 1 processes x 3 parts" in capsys.readouterr().err
    assert run([*plan, "--accumulate", "4", "--contrastive-weight", "0.05"]) == 2
    assert "compares the pairs of a micro batch" in capsys.readouterr().err


@pytest.mark.usefixtures("short_estimates")
@pytest.mark.parametrize("chosen", [["--size", "L"], ["--size", "tiny", "--sharding", "fsdp"]])
def test_muon_is_refused_where_several_processes_shard_the_model(
    chosen: list[str], work: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ["train", "--data", str(work / "data"), "--out", "no", "--dry-run", *chosen]
    plan += ["--optimizer", "muon", "--batch-size", "4"]
    if chosen[1] == "tiny":  # L takes longer
        assert run(plan) == 0  # one process shards nothing
        capsys.readouterr()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(plan) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    named = "--sharding fsdp" if "--sharding" in chosen else "--sharding auto (fsdp for L and XL)"
    assert error == f"error: muon needs whole matrices, and {named} splits them"
    assert "--sharding ddp" in hint


@pytest.mark.usefixtures("short_estimates")
def test_a_plan_shows_the_amount_of_training(work: Path, tmp_path: Path, capsys: Capture) -> None:
    plan = ["train", "--data", work / "data", "--out", tmp_path / "no", "--size", "tiny"]
    plan += ["--dry-run", "--steps"]
    pairs = json.loads((work / "data/dataset.json").read_text())["counts"]["train"]["pairs"]
    ok(*plan, 30 * pairs, "--batch-size", 2, "--ema", 0.9)
    output = capsys.readouterr()
    assert f"{30 * pairs:,} steps of 2 (60.0 epochs)" in output.out
    assert "average" not in output.err
    ok(*plan, 7, "--batch-size", "auto")
    output = capsys.readouterr()
    assert "7 steps, batches as large as fit" in output.out
    assert (
        "0.9999), which is the model that samples, is still 100% of its random initial values"
        in output.err
    )
    ok(*plan, 7, "--ema-warmup")
    assert "average" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["train", "--data", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["sample", "--data", "DATA", "--model", "nowhere", "--out", "x"], "no such model folder"),
        (["sample", "--data", "DATA", "--model", "DATA", "--out", "x"], "not a model folder"),
        (["evaluate", "--generated", "nowhere", "--data", "DATA"], "no such folder"),
        (["prepare", "--root", "nowhere", "--out", "x"], "nowhere does not exist"),
    ],
)
def test_missing_inputs_are_named(
    work: Path, arguments: list[str], output: str, capsys: Capture, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run([str(work / "data") if a == "DATA" else a for a in arguments]) == 1
    captured = capsys.readouterr()
    assert output in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--root", "r", "--out", "o", "--encoders", "best"],
        ["prepare", "--root", "r", "--out", "o", "--encoders", "toy", "--vae", "v"],
        ["prepare", "--root", "r", "--out", "o", "--resolution", "100"],
        ["evaluate", "--target", "t"],
        ["evaluate", "--target", "t", "--generated", "g", "--limit", "1"],
        ["evaluate", "--target", "t", "--model", "m"],
        ["evaluate", "--target", "t", "--generated", "g", "--seeds", "2"],
        ["evaluate", "--data", "d", "--generated", "g", "--real", "r"],
        ["train", "--data", "d", "--out", "o", "--preset", "none"],
        ["train", "--data", "d", "--out", "o", "--config", "missing.toml"],
        ["train", "--data", "d", "--out", "o", "--conditioning", "words"],
    ],
)
def test_wrong_options_exit_2(arguments: list[str], capsys: Capture) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_model_of_another_size_is_refused(work: Path, tmp_path: Path, capsys: Capture) -> None:
    """A model of 32 px on a dataset of 64 px, and on a dataset with features of other encoders."""
    toy = ["--encoders", "toy", "--vae-steps", 1, "--limit", 1]
    for name, more in (("64", ["--resolution", 64]), ("other", ["--size", 32, "--seed", 1])):
        ok("prepare", "--root", work / "raw", "--out", tmp_path / name, *toy, *more)
        capsys.readouterr()
        args = ["sample", "--data", tmp_path / name, "--model", work / "run/model"]
        assert run([str(a) for a in (*args, "--out", tmp_path / "s")]) == 1
        output = capsys.readouterr().err
        assert ("prepared at 64 px" if name == "64" else "another vae encoder") in output


def test_missing_pretrained_weights_are_an_error(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    args = ["prepare", "--root", work / "raw", "--out", tmp_path / "data", "--resolution", 64]
    assert run([str(a) for a in args]) == 1
    output = capsys.readouterr().err
    assert "stabilityai/sd-vae-ft-mse" in output
    assert "--vae" in output


def test_two_processes_do_not_share_a_folder(work: Path, tmp_path: Path, capsys: Capture) -> None:
    from xmdpt_cli.files import only_process

    words = ["train", "--data", work / "data", "--out", tmp_path / "run", "--size", "tiny"]
    with only_process(tmp_path / "run"):
        process = Forked(xmdpt, *words, "--steps", 1)
        assert process.wait() == 1
    assert "another process is working in" in process.stderr


def test_real_photographs(shared: Callable[[str], Path], tmp_path: Path, capsys: Capture) -> None:
    """prepare, train, sample, evaluate on real DeepFashion images with toy encoders."""
    root, data = shared("deepfashion_sample"), tmp_path / "data"
    toy = ["--encoders", "toy", "--resolution", 64, "--vae-steps", 20, "--limit", 6]
    done = result(capsys, "prepare", "--root", root, "--out", data, *toy)
    assert done["toy"] is True
    assert done["skipped"] == []
    counts = done["counts"]
    assert isinstance(counts, dict)
    assert counts["train"] == {"items": 6, "images": 12, "pairs": 12}
    assert counts["test"] == {"items": 6, "images": 12, "pairs": 6}
    preset = ["--preset", "demo/tokens-64", "--steps", 3, "--batch-size", 4]
    ok("train", "--data", data, "--out", tmp_path / "run", *preset)
    args = ["sample", "--data", data, "--model", tmp_path / "run", "--out", tmp_path / "samples"]
    made = result(capsys, *args, "--steps", 3)
    assert made["images"] == 6
    numbers = result(capsys, "evaluate", "--data", data, "--generated", tmp_path / "samples")
    assert numbers["protocol"] == "native"
    # the photographs themselves are right: both views of a person are alike, not equal
    rows = numbers["rows"]
    assert isinstance(rows, dict)
    assert 0.1 < rows["copy-source"]["ssim_256"] < 0.95
