"""Exit 1 unless a wheel holds every file of the package in this checkout: data files too."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "xmdpt_cli"


def main(wheel: str) -> int:
    held = set(zipfile.ZipFile(wheel).namelist())
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
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
