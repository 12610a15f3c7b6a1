"""The toy model of the package: a small pipeline folder, trained on synthetic people.

It lies beside this file, as ``XMDPTPipeline.save_pretrained`` writes it, so that an image can be
generated right after the installation. It knows synthetic people only.
"""

from __future__ import annotations

from pathlib import Path

from xmdpt_cli.errors import XmdptError

FOLDER = Path(__file__).with_name("model")
NAME = "toy"  # on the command line, and of its folder of samples
TITLE = "the toy model of the package"  # in messages and on the page


def is_available() -> bool:
    """Whether this installation has the model."""
    return (FOLDER / "xmdpt.json").is_file()


def folder() -> Path:
    """The pipeline folder, for ``XMDPTPipeline.from_pretrained``. XmdptError if it is missing."""
    if not is_available():
        raise XmdptError(
            "this installation has no toy model", "train one in three minutes: xmdpt demo"
        )
    return FOLDER
