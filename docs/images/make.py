"""Make the images of the documentation again, from a finished demo: synthetic people only.

    xmdpt demo --out xmdpt-demo
    python docs/images/make.py xmdpt-demo

Makes demo-sheet.jpg, toy-model.jpg, own-data-sheet.jpg, tiny-decoder.jpg, prepare-report.png,
metrics-page.png and ui.png. Needs Chromium, and the extra ``dev``. Takes about ten minutes on two
CPU cores, most of them for the training of the tiny decoder.

strip.png: ``examples/one_person_many_poses.py`` with the data and the model of
``examples/experiments/toy_model.py``, --person 6. distillation-noise.jpg and
distillation-vector.jpg: the first three rows of the contact sheets that
``examples/experiments/distillation.py`` writes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
PAGE = "http://127.0.0.1:7861"


def main(demo: Path) -> None:
    """Write every image beside this file."""
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        folder = Path(name)  # a new workspace, so that no path of this machine is in an image
        (folder / "xmdpt-demo").symlink_to(demo.resolve())
        save_sheet(demo)
        save_tiny(folder)
        save_report(chromium, folder)
        save_metrics(chromium, folder)
        save_page(chromium, folder)


def save_sheet(demo: Path) -> None:
    """The first two rows of the contact sheets of the demo and of the toy model."""
    for folder, name in (("samples-tokens", "demo-sheet"), ("toy-model", "toy-model")):
        with Image.open(demo / folder / "sheet.png") as sheet:
            rows = sheet.convert("RGB").crop((0, 0, sheet.width, 286))
            rows.save(HERE / f"{name}.jpg", quality=90)


def save_tiny(folder: Path) -> None:
    """The first two rows of what ``xmdpt finetune-vae --decoder tiny`` writes to look at."""
    options = ["--data", "xmdpt-demo/data", "--steps", "1500", "--out", "tiny"]
    xmdpt("finetune-vae", "--decoder", "tiny", *options, cwd=folder)
    with Image.open(folder / "tiny/full_tiny.png") as sheet:
        rows = sheet.convert("RGB").crop((0, 0, sheet.width, 416))
        rows.save(HERE / "tiny-decoder.jpg", quality=85)


def save_report(chromium: Any, folder: Path) -> None:
    """What ``xmdpt prepare`` writes to look at: report.html."""
    xmdpt("synth", "--out", "DeepFashion", "--people", "24", "--test-people", "8", cwd=folder)
    options = ["--root", "DeepFashion", "--resolution", "64"]
    options += ["--encoders", "toy", "--vae-steps", "60"]
    xmdpt("prepare", *options, cwd=folder)
    shot(chromium, (folder / "data/64/report.html").as_uri(), "prepare-report", height=900)
    with Image.open(folder / "data/64/sheet.png") as sheet:
        rows = sheet.convert("RGB").crop((0, 24, sheet.width, 384))  # the first two
        rows.save(HERE / "own-data-sheet.jpg", quality=85)


def save_metrics(chromium: Any, folder: Path) -> None:
    """The page that ``xmdpt evaluate`` writes: metrics.html."""
    shutil.copytree(folder / "xmdpt-demo/samples-tokens", folder / "samples")
    metrics = ["--fid", "--ssim", "--lpips", "--psnr"]
    data = ["--data", "xmdpt-demo/data", "--generated", "samples"]
    xmdpt("evaluate", *data, *metrics, cwd=folder)
    shot(chromium, (folder / "samples/metrics.html").as_uri(), "metrics-page", height=900)


def save_page(chromium: Any, folder: Path) -> None:
    """The web page of ``xmdpt ui``, after one image is generated."""
    options = ["--model", "xmdpt-demo/run-tokens", "--port", "7861"]
    command = [sys.executable, "-m", "xmdpt_cli", "ui", *options]
    server = subprocess.Popen(command, cwd=folder)
    try:
        page = chromium.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(120_000)
        wait_for(page)
        page.click("#examples button >> nth=1")
        page.wait_for_selector("#people img")
        page.get_by_role("button", name="Walking", exact=True).click()
        page.click("#generate")
        page.wait_for_selector("#result-status :text('image in')")
        page.wait_for_timeout(1000)
        image = page.screenshot()
        page.close()
    finally:
        server.terminate()
        server.wait(30)
    save_bytes(image, "ui")


def wait_for(page: Any) -> None:
    """Open the page as soon as its server answers."""
    for _ in range(120):
        try:
            page.goto(PAGE)
            break
        except Exception:
            page.wait_for_timeout(1000)
    page.wait_for_selector(".joint[transform]")
    page.wait_for_selector(".app > .translucent", state="detached")  # Gradio's loading overlay


def shot(chromium: Any, url: str, name: str, height: int) -> None:
    page = chromium.new_page(viewport={"width": 1100, "height": height})
    page.goto(url)
    page.wait_for_timeout(500)
    image = page.screenshot()
    page.close()
    save_bytes(image, name)


def save_bytes(png: bytes, name: str) -> None:
    path = HERE / f"{name}.png"
    path.write_bytes(png)
    with Image.open(path) as image:
        save(image, name)


def save(image: Image.Image, name: str) -> None:
    """Save with a palette of 256 colours."""
    few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    path = HERE / f"{name}.png"
    few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def xmdpt(*arguments: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-m", "xmdpt_cli", *arguments], cwd=cwd, check=True)


@contextmanager
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
