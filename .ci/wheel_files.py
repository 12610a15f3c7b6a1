"""Exit 1 unless a wheel holds every file of the package in this checkout, data files too, and the
toy model in it is small."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "xmdpt_cli"
TOY = "xmdpt_cli/toy/model/"  # the toy model of the package
LARGEST = 12_000_000  # bytes of the toy model: everyone who installs the package downloads it


def main(wheel: str) -> int:
    sizes = {info.filename: info.file_size for info in zipfile.ZipFile(wheel).infolist()}
    held = set(sizes)
    wanted = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    lacking = sorted(wanted - held)
    for name in lacking:
        print(f"not in the wheel: {name}", file=sys.stderr)
    kinds = sorted({Path(name).suffix for name in wanted})
    print(f"{Path(wheel).name}: {len(wanted)} files of the package ({' '.join(kinds)})")
    toy = sum(size for name, size in sizes.items() if name.startswith(TOY))
    if toy > LARGEST:
        print(f"the toy model has {toy:,} bytes, more than {LARGEST:,}", file=sys.stderr)
    return 1 if lacking or toy > LARGEST else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
