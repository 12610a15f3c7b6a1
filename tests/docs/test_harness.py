"""The tests of the pages can fail: small pages with one fault each, and the lines of the errors."""

from __future__ import annotations

import textwrap
from pathlib import Path

import docs_small
import pytest
from docs_blocks import PageError, commands, read_page
from docs_run import run_page
from docs_workspace import WorkspaceItems

from xmdpt_cli.model import SIZES

FAULTS = {
    "an option that does not exist": (
        """
        ```bash
        xmdpt status
        xmdpt sample --sauce person.jpg
        ```
        """,
        "page.md:4: xmdpt sample --sauce person.jpg\nexit code 2\nerror: No such option: --sauce",
    ),
    "a command that fails": (
        """
        ```bash
        xmdpt prepare \\
            --root nowhere
        ```
        """,
        "page.md:3: xmdpt prepare --root nowhere\nexit code 1\nerror: ",
    ),
    "a command of the shell that fails": (
        """
        ```bash
        ls nowhere
        ```
        """,
        "page.md:3: ls nowhere\nexit code 2",
    ),
    "a command that fails before a pipe": (
        """
        ```bash
        xmdpt prepare --root nowhere | cat
        ```
        """,
        "page.md:3: xmdpt prepare --root nowhere | cat\nexit code 1",
    ),
    "a download": (
        """
        ```bash
        pip install something
        ```
        """,
        "page.md:3: pip install something\nneeds `<!-- not run: REASON -->`",
    ),
    "code that fails": (
        """
        ```python
        import xmdpt_cli
        ```
        text
        ```python
        xmdpt_cli.__version__.split(".")
        xmdpt_cli.save_jpg
        ```
        """,
        "page.md:8: AttributeError",
    ),
    "an unknown language": ("```fish\n```", "page.md:1: unknown block 'fish'"),
    "a misspelt title": (
        '```toml titel="recipe.toml"\n```',
        """page.md:1: unknown block 'toml titel="recipe.toml"'""",
    ),
    "a file that is not what its title says": (
        '```json title="pose.json"\n{"keypoints": [}\n```',
        "page.md:2: this json cannot be parsed",
    ),
    "a file that a line misses": (
        '```toml title="recip.toml"\n[train]\n```\n```bash\nxmdpt train --config recipe.toml\n```',
        "page.md:5: xmdpt train --config recipe.toml\nexit code 2",
    ),
    "an unknown workspace item": (
        "<!-- workspace: person.jpg horse.jpg -->",
        "page.md: no such workspace item: horse.jpg; there are DeepFashion, ",
    ),
    "an unknown reason": (
        "<!-- not run: no time -->\n```bash\nls\n```",
        "page.md:1: no such reason: 'no time'",
    ),
    "a reason without a block": (
        "<!-- not run: needs a GPU -->\nText.\n```bash\nls\n```",
        "page.md:1: `not run` stands directly before a block",
    ),
    "an unknown comment": ("<!-- norun -->", "page.md:1: unknown comment 'norun'"),
    "a block without an end": ("```bash\nls\n", "page.md:1: the block has no end"),
}


def run(
    path: Path, items: WorkspaceItems, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = read_page(path)
    items.copy_into(workspace, page)
    run_page(page, workspace, lambda: "".join(capfd.readouterr()))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(
    fault: str, items: WorkspaceItems, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, message = FAULTS[fault]
    path = workspace / "page.md"
    path.write_text(textwrap.dedent(text))
    with pytest.raises(PageError) as err:
        run(path, items, workspace, capfd)
    assert str(err.value).removeprefix(f"{workspace}/").startswith(message)


def test_a_page_that_is_right(
    items: WorkspaceItems, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workspace / "page.md").write_text(
        textwrap.dedent("""
        <!-- workspace: person.jpg pose.json -->

        1. A list with a block in it:

            ```bash
            cp person.jpg another.jpg   # a comment
            xmdpt --version > version.txt
            cd ..
            cd workspace
            ```

        ```toml title="recipe.toml"
        [train]
        steps = 300000
        ```

        <!-- not run: needs the network -->
        ```bash
        pip install something
        ```

        ```python
        from pathlib import Path

        assert Path("another.jpg").exists()
        version = Path("version.txt").read_text()
        ```

        ```python
        assert version.startswith("xmdpt ")
        assert "steps" in Path("recipe.toml").read_text()
        ```
        """)
    )
    run(workspace / "page.md", items, workspace, capfd)
    assert (workspace / "another.jpg").exists()


def test_commands_of_a_block(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```bash\na  b # c\n\n# d\ne \\\n  f#g\nh\n```\n")
    (block,) = read_page(tmp_path / "page.md").blocks
    assert commands(block) == [(2, "a b"), (5, "e f#g"), (7, "h")]


def test_values_are_made_small() -> None:
    line = ["train", "--steps", "300000", "--batch-size", "auto", "--dry-run"]
    assert docs_small.small(line) == ["train", "--steps", "2", "--batch-size", "auto", "--dry-run"]
    assert docs_small.small(["bench", "data", "--items", "64"]) == ["bench", "data", "--items", "4"]
    roof = ["bench", "--roof", "--size", "S"]
    assert docs_small.small(roof) == roof
    assert docs_small.variables()["XMDPT_FINETUNE_VAE_BATCH_SIZE"] == "2"


def test_the_sizes_are_small_for_a_page(items: WorkspaceItems) -> None:
    assert SIZES["B"] == docs_small.SIZES["B"]


def test_the_sizes_are_real_after_a_page() -> None:
    assert SIZES["B"] == (12, 768, 12)
