"""``xmdpt prepare`` as a user meets it: plans, sizes, own images, losses, checks and repairs."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import pytest
from forked import run_ranks, xmdpt
from hashes import hashes
from PIL import Image

from xmdpt_cli.cli.app import run

Capture = pytest.CaptureFixture[str]


def run_prepare(capsys: Capture, code: int, *arguments: object) -> tuple[str, str]:
    """Run, expect this exit code, return (stdout, stderr)."""
    capsys.readouterr()
    got = run(["prepare", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert got == code, err
    return out, err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people, prepared at 32 px with toy encoders."""
    work = tmp_path_factory.mktemp("prepare")
    people = ["--people", "3", "--test-people", "2", "--height", "64"]
    assert run(["synth", "--out", str(work / "raw"), *people]) == 0
    toy = ["--encoders", "toy", "--resolution", "32", "--vae-steps", "2"]
    assert run(["prepare", "--root", str(work / "raw"), "--out", str(work / "data"), *toy]) == 0
    return work


def options(work: Path, *, size: int = 32) -> list[object]:
    return ["--root", work / "raw", "--resolution", size, "--encoders", work / "data" / "encoders"]


def test_the_plan_equals_the_prepared_dataset(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    text, _ = run_prepare(capsys, 0, *options(work), "--out", out, "--dry-run", "--json")
    plan = json.loads(text)
    assert not out.exists()
    assert plan["seconds"] is not None
    assert plan["memory_bytes"] > 50 * 2**20  # torch alone takes more
    text, err = run_prepare(capsys, 0, *options(work), "--out", out, "--json")
    made = json.loads(text)
    assert plan["images"] == {s: c["images"] for s, c in made["counts"].items()}
    assert plan["pairs"] == {s: c["pairs"] for s, c in made["counts"].items()}
    shards = json.loads((out / "dataset.json").read_text())["shards"]
    assert plan["shards"] == len(shards)
    assert plan["bytes"]["32"] == pytest.approx(sum(s["bytes"] for s in shards), rel=0.1)
    assert "plan: " in err


def test_a_plan_without_networks_names_what_is_unknown(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["--root", work / "raw", "--out", tmp_path / "out", "--dry-run"]
    text, err = run_prepare(capsys, 0, *arguments)
    assert "time unknown" in err
    assert "networks not measured" in err
    assert "hf download stabilityai/sd-vae-ft-mse" in err
    assert "nothing was written" in text
    # an image: latents 2 x 16 kB, DINOv2-G and -B tokens 2 x 1.13 MB; 63 GB in all, 126 with flips
    plan = json.loads(run_prepare(capsys, 0, *arguments, "--json")[0])
    each = plan["bytes"]["256"] / sum(plan["images"].values())
    assert each == pytest.approx(2 * (16_384 + 257 * (1536 + 768) * 2), rel=0.1)


def test_the_plan_with_toy_encoders(work: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    arguments = ["--root", work / "raw", "--out", out, "--encoders", "toy", "--resolution", 80]
    arguments += ["--vae-steps", 2, "--limit", 1]
    text, err = run_prepare(capsys, 0, *arguments, "--dry-run", "--json")
    plan = json.loads(text)
    assert "toy VAE for 80 px, 2 steps: about" in err
    assert plan["seconds"] is not None
    assert not out.exists()
    _, err = run_prepare(capsys, 0, *arguments)
    assert err.index("toy VAE for 80 px") < err.index("vae: 1/2")
    shards = json.loads((out / "dataset.json").read_text())["shards"]
    assert plan["bytes"]["80"] == pytest.approx(sum(s["bytes"] for s in shards), rel=0.1)
    (out / "dataset.json").unlink()
    _, err = run_prepare(capsys, 0, *arguments)
    assert "toy VAE" not in err  # it is there


def test_two_sizes_at_once(work: Path, tmp_path: Path, capsys: Capture) -> None:
    both = tmp_path / "both"
    text, _ = run_prepare(capsys, 0, *options(work), "--resolution", 48, "--out", both, "--json")
    assert set(json.loads(text)["datasets"]) == {"32", "48"}
    run_prepare(capsys, 0, *options(work, size=48), "--out", tmp_path / "48")
    assert hashes(both / "48", "encoders") == hashes(tmp_path / "48", "encoders")
    assert hashes(both / "32", "encoders") == hashes(work / "data", "encoders")


def test_the_report_page_and_sheet_are_written(work: Path) -> None:
    page = (work / "data" / "report.html").read_text()
    assert "toy" in page.lower()
    with Image.open(work / "data" / "sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_keypoints_are_written_in_both_published_formats(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    run_prepare(capsys, 0, *options(work), "--out", out, "--write-annotations", tmp_path / "poses")
    again = tmp_path / "again"
    again.mkdir()
    for split in ("train", "test"):
        shutil.copy(work / "raw" / f"fasion-resize-pairs-{split}.csv", again)
    (again / "img_highres").symlink_to(work / "raw" / "img_highres")
    (again / "pose").symlink_to(tmp_path / "poses" / "pose")
    _, err = run_prepare(
        capsys, 0, "--root", again, *options(work)[2:], "--out", tmp_path / "from-txt"
    )
    assert "pose" in err
    assert filecmp.cmp(
        tmp_path / "from-txt" / "sheet.png", work / "data" / "sheet.png", shallow=False
    )


def own_images(work: Path, root: Path) -> Path:
    """The synthetic people as own images: one folder for each person."""
    for number, path in enumerate(sorted((work / "raw").rglob("*.jpg"))):
        person = root / ("Zoë (2)", "bob", "anna")[number % 3]
        person.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, person / f"photo {number}.jpg")
    return root


def with_keypoints(root: Path) -> None:
    """The same keypoints for every image, in the published form."""
    rows = ["name:keypoints_y:keypoints_x"]
    joints = f"{[20 + 10 * i for i in range(18)]}: {[60 + i for i in range(18)]}"
    rows += [f"{p.relative_to(root).as_posix()}: {joints}" for p in root.rglob("*.jpg")]
    (root / "annotations.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_own_images_with_their_own_keypoints(work: Path, tmp_path: Path, capsys: Capture) -> None:
    root = own_images(work, tmp_path / "mine")
    with_keypoints(root)
    arguments = ["--root", root, *options(work)[2:], "--out", tmp_path / "out"]
    text, err = run_prepare(capsys, 0, *arguments, "--json")
    counts = json.loads(text)["counts"]
    assert counts["train"]["items"] + counts["test"]["items"] == 3
    assert counts["test"]["items"] == 1
    assert "own images" in err


def test_the_frame_of_annotations_is_printed_chosen_and_checked(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "raw"
    shutil.copytree(work / "raw", root)
    file = root / "fasion-resize-annotation-train.csv"
    rows = [line.split(": ") for line in file.read_text().splitlines()[1:]]
    padded = [[v if v == -1 else v + 40 for v in json.loads(row[2])] for row in rows]
    lines = [f"{row[0]}: {row[1]}: {x}" for row, x in zip(rows, padded, strict=True)]
    file.write_text("name:keypoints_y:keypoints_x\n" + "\n".join(lines) + "\n")
    arguments = ["--root", root, *options(work)[2:]]
    _, err = run_prepare(capsys, 0, *arguments, "--out", tmp_path / "out")
    assert f"{file.name}, {len(rows)} rows, frame 256x256 padded (" in err
    assert hashes(tmp_path / "out", "encoders") == hashes(work / "data", "encoders")
    out = tmp_path / "wrong"
    _, err = run_prepare(capsys, 0, *arguments, "--out", out, "--frame", "256x176")
    assert "frame 256x176 (by --frame, although implausible" in err
    begun = json.loads((out / "prepare.json").read_text())
    assert begun["options"].pop("frame") == "256x176"
    # as an earlier version made it, which read any such file in the 256x176 frame
    (out / "prepare.json").write_text(json.dumps(begun))
    text, err = run_prepare(capsys, 1, "--check", out)
    assert "people are not where photographs have them" in err + text
    _, err = run_prepare(capsys, 2, *arguments, "--out", out, "--frame", "padding")
    assert "--frame is auto, 256x176, " in err


def test_a_missing_openpose_is_an_error(work: Path, tmp_path: Path, capsys: Capture) -> None:
    root = own_images(work, tmp_path / "mine")
    arguments = ["--root", root, *options(work)[2:], "--out", tmp_path / "out"]
    _, err = run_prepare(capsys, 1, *arguments)
    assert "body_pose_model.pth" in err
    assert "--openpose" in err
    assert not (tmp_path / "out").exists()


def test_more_than_one_percent_lost_is_an_error_after_preparing_the_rest(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "raw"
    shutil.copytree(work / "raw", root)
    broken = sorted(root.rglob("*.jpg"))[0]
    broken.write_bytes(b"")
    arguments = ["--root", root, *options(work)[2:], "--out", tmp_path / "out"]
    text, err = run_prepare(capsys, 1, *arguments)
    assert "more than 1 %" in err
    assert broken.name in err
    assert "prepared " in text
    assert "next:" not in text
    assert (tmp_path / "out" / "dataset.json").is_file()
    _, err = run_prepare(capsys, 1, *arguments[:-1], tmp_path / "strict", "--strict")
    assert broken.name in err


def test_check_and_repair(work: Path, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data"
    shutil.copytree(work / "data", data)
    before = hashes(data, "encoders")
    text, _ = run_prepare(capsys, 0, "--check", data)
    assert ": valid" in text
    with open(data / "train-000000.tar", "r+b") as file:
        file.seek(5000)
        file.write(b"XXXX")
    (data / "test-000000.index.json").unlink()
    _, err = run_prepare(capsys, 1, "--check", data)
    assert "train-000000.tar: its content has changed" in err
    assert "test-000000.index.json" in err
    assert f"hint: xmdpt prepare --check {data} --repair --root ROOT, where" in " ".join(
        err.split()
    )
    text, err = run_prepare(capsys, 1, "--check", data, "--repair")
    assert "rebuilt: test-000000.index.json" in text
    assert "to prepare again: train-000000.tar" in text
    assert (data / "dataset.json").exists()
    _, err = run_prepare(capsys, 0, "--check", data, "--repair", "--root", work / "raw")
    assert "repair: train-000000.tar of" in err
    assert hashes(data, "encoders") == before
    (data / "dataset.json").unlink()  # never finished
    run_prepare(capsys, 0, "--check", data, "--repair", "--root", work / "raw")
    assert hashes(data, "encoders") == before
    report = json.loads(run_prepare(capsys, 0, "--check", data, "--json")[0])
    assert report["ok"] is True


@pytest.fixture(scope="module")
def unusual(work: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(root, dataset) prepared with options that are no defaults, and the encoders elsewhere."""
    folder = tmp_path_factory.mktemp("unusual")
    root = own_images(work, folder / "mine")
    with_keypoints(root)
    arguments = ["--root", root, "--out", folder / "data", "--resolution", 32, "--layout", "people"]
    arguments += ["--seed", 3, "--tokens", "fp8", "--limit", 2, "--batch-size", 5]
    arguments += ["--encoders", work / "data" / "encoders"]
    assert run(["prepare", *map(str, arguments)]) == 0
    return root, folder / "data"


def damaged_copy(data: Path, out: Path) -> Path:
    """The dataset with a byte changed."""
    shutil.copytree(data, out)
    with open(out / "train-000000.tar", "r+b") as file:
        file.seek(5000)
        file.write(b"XXXX")
    return out


def test_a_repair_uses_the_recorded_settings(
    work: Path, unusual: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    root, made = unusual
    data = damaged_copy(made, tmp_path / "data")
    damaged = hashes(data)
    arguments = ["--check", data, "--repair", "--root", root]
    _, err = run_prepare(capsys, 1, *arguments)  # toys are on no hub, and these are not beside it
    assert "toy-vae-32-seed0" in err
    assert "--encoders DIR" in err
    assert hashes(data) == damaged
    run_prepare(capsys, 0, *arguments, "--encoders", work / "data" / "encoders", "--seed", 3)
    assert hashes(data) == hashes(made)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--resolution", 64], "--resolution 64 (recorded: 32)"),
        (["--seed", 0], "--seed 0 (recorded: 3)"),
        (["--layout", "auto"], "--layout auto (recorded: people)"),
        (["--tokens", "bf16", "--limit", 1], "--tokens bf16 (recorded: fp8), --limit 1"),
        (["--encoders", "pretrained"], "--encoders pretrained (recorded: toy)"),
        (["--pose", "openpose"], "--pose openpose (recorded: auto)"),
    ],
)
def test_options_that_contradict_the_record_are_named(
    unusual: tuple[Path, Path], tmp_path: Path, capsys: Capture, given: list[object], named: str
) -> None:
    root, made = unusual
    data = damaged_copy(made, tmp_path / "data")
    damaged = hashes(data)
    _, err = run_prepare(capsys, 2, "--check", data, "--repair", "--root", root, *given)
    assert named in err
    assert hashes(data) == damaged


def test_a_repair_with_a_wrong_root_or_network_changes_nothing(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = damaged_copy(work / "data", tmp_path / "data")
    damaged = hashes(data, "encoders")
    raw = Path(shutil.copytree(work / "raw", tmp_path / "raw"))
    gone = next(raw.rglob("*.jpg"))
    gone.unlink()
    other = own_images(work, tmp_path / "mine")
    for root, named in ((raw, gone.name), (other, "not what"), (tmp_path / "no", "not exist")):
        _, err = run_prepare(capsys, 1, "--check", data, "--repair", "--root", root)
        assert named in err
    vae = next((data / "encoders/vae").glob("*.safetensors"))
    content = bytearray(vae.read_bytes())
    content[-1] ^= 1
    vae.write_bytes(content)
    _, err = run_prepare(capsys, 1, "--check", data, "--repair", "--root", work / "raw")
    assert "not the network that" in err
    assert "--vae DIR" in err
    assert hashes(data, "encoders") == damaged
    given = ["--vae", work / "data/encoders/vae"]
    run_prepare(capsys, 0, "--check", data, "--repair", "--root", work / "raw", *given)
    assert hashes(data, "encoders") == hashes(work / "data", "encoders")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--root is missing"),
        (["--repair"], "--check DIR"),
        (["--root", "x", "--out", "y", "--encoders", "nowhere"], "nowhere"),
        (["--root", "x", "--out", "s3://bucket/set", "--encoders", "toy"], "--out is a URL"),
        (["--root", "x", "--out", "y", "--pose", "guess"], "--pose"),
        (["--root", "x", "--out", "y", "--size", "100"], "100\nhint: the published ones are"),
        (["--root", "x", "--out", "y", "--encoders", "toy", "--vae", "z"], "cannot be combined"),
        (["--root", ".", "--out", "y", "--layout", "heap"], "layout"),
    ],
)
def test_wrong_options(
    arguments: list[object], named: str, capsys: Capture, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    _, err = run_prepare(capsys, 2, *arguments)
    assert named in err


def test_two_ranks_give_the_bytes_of_one_process(
    work: Path, tmp_path: Path, capsys: Capture
) -> None:
    run_ranks(2, xmdpt, "prepare", *options(work), "--out", tmp_path / "two")
    run_prepare(capsys, 0, *options(work), "--out", tmp_path / "one")
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
