"""Which room may import which, and what is not imported early, from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xmdpt_cli"
#: Rooms from the lowest to the highest. A file imports its own room and those above its line
#: here, never those below: so there are no circles.
BASE = {
    "__init__",
    "errors",
    "config",
    "files",
    "images",
    "progress",
    "presets",
    "utils",
    "storage",
}
NETWORKS = {"pose", "encoders", "diffusion", "model", "metrics"}
DATA = {"datasets", "data"}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    "pose": BASE,
    "encoders": BASE,
    "diffusion": BASE,
    "model": BASE | {"encoders", "diffusion"},
    "metrics": BASE,
    "datasets": BASE | NETWORKS,
    "data": BASE | NETWORKS,
}
MAY_IMPORT["report"] = BASE | NETWORKS | DATA
MAY_IMPORT["sampling"] = MAY_IMPORT["report"] | {"report"}
MAY_IMPORT["prepare"] = MAY_IMPORT["report"] | {"report"}
MAY_IMPORT["training"] = MAY_IMPORT["report"] | {"report", "sampling"}
MAY_IMPORT["vae_training"] = MAY_IMPORT["training"] | {"training"}
STAGES = {"report", "sampling", "prepare", "training", "vae_training", "distillation"}
MAY_IMPORT["distillation"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["toy"] = BASE | NETWORKS | DATA | STAGES
MAY_IMPORT["bench"] = MAY_IMPORT["toy"] | {"toy"}
MAY_IMPORT["ui"] = BASE | NETWORKS | DATA | {"report", "sampling"}
MAY_IMPORT["cli"] = MAY_IMPORT["bench"] | {"bench", "ui"}
MAY_IMPORT["__init__"] = BASE | NETWORKS | DATA | {"sampling"}  # lazily, and for type checkers
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT = {part: rooms | {part} for part, rooms in MAY_IMPORT.items()}
EARLY = {"__init__", "config", "errors", "files", "progress", "cli"}
HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "lpips",
    "controlnet_aux",
    "cv2",
    "matplotlib",
}
PAGE = {"gradio", "gradio_client", "fastapi", "uvicorn"}
TALKERS = {"cli"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Full dotted names imported by a file; ``if TYPE_CHECKING`` blocks do not run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            # `from xmdpt_cli import config` names a module too
            found |= {f"{node.module}.{a.name}" for a in node.names if node.module == "xmdpt_cli"}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    part = part_of(path)
    ours = {n.split(".")[1] for n in imports(path) if n.startswith("xmdpt_cli.")}
    ours.discard("__version__")
    assert ours <= MAY_IMPORT[part], f"{part} may not import {sorted(ours - MAY_IMPORT[part])}"
    outside = {name.split(".")[0] for name in imports(path)}
    if part not in TALKERS:
        assert not outside & {"typer", "rich"}, "only cli talks"
    if part != "ui":
        assert not outside & PAGE, "only ui knows Gradio"
    if part in EARLY:
        early = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not early & HEAVY, f"heavy import at the top: {sorted(early & HEAVY)}"


def test_the_rule_finds_a_violation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from xmdpt_cli.data import loader\ndef f():\n    import xmdpt_cli.training.ema\n"
    )
    assert {"xmdpt_cli.data", "xmdpt_cli.training.ema"} <= imports(bad)


def test_help_and_the_package_load_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "import xmdpt_cli\n"
        "from xmdpt_cli.cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    assert run(['--help']) == 0\n"
        f"print(sorted(set(sys.modules) & {HEAVY | PAGE | {'numpy', 'PIL'}!r}))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_importable() -> None:
    import xmdpt_cli

    for name in xmdpt_cli.__all__:
        assert getattr(xmdpt_cli, name) is not None
    assert xmdpt_cli.XMDPT.__name__ == "XMDPT"
    assert xmdpt_cli.metrics.SSIM256.__name__ == "SSIM256"
    with pytest.raises(AttributeError, match="no_such_name"):
        xmdpt_cli.no_such_name  # noqa: B018


def test_test_files_have_unique_names() -> None:
    """pytest imports a test file by its name alone: of two with one name, one is not collected."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
