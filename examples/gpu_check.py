"""Check a GPU: whether everything computes correctly on it, and how fast.

    python examples/gpu_check.py --out DIR

Takes about 15 minutes on one H100 or H200, installs and downloads nothing, and writes
DIR/gpu_check.json and DIR/gpu_check.md (a table), each row as soon as it is known. On a machine
without a GPU, or with --small, it is a dry run with small sizes that measures nothing. The exit
code is 1 if a part that ran is not right or misses its target.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout need not be installed

from xmdpt_cli.bench.gpu_check.parts import PARTS, chosen
from xmdpt_cli.bench.gpu_check.rows import Report, Row, Setting
from xmdpt_cli.bench.gpu_check.runner import environment, run
from xmdpt_cli.errors import XmdptError


def main() -> int:
    """Parse the options, run the parts, and return the exit code."""
    args = arguments()
    parts = chosen(args.parts.split(",") if args.parts else None)
    work = Path(tempfile.mkdtemp(prefix="xmdpt-gpu-check-", dir=args.work)).resolve()
    try:
        machine = describe_machine(work)
        small = args.small or machine["device"] == "cpu"
        report = Report(args.out, machine, small)
        log_file = args.out / "gpu_check.log"
        log_file.write_text("", encoding="utf-8")

        def on_row(part: str, row: Row) -> None:
            report.add(part, row)
            line = f"{row.verdict:8} {part}: {row.check} {row.shown} {row.note}"
            print(line.rstrip(), flush=True)

        compiled = args.compile if args.compile is not None else not small
        device = "cpu" if machine["device"] == "cpu" else "cuda"
        setting = Setting(device, small, work, args.goldens, compiled)
        run(parts, setting, args.budget, on_row, log_file)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(args.out / "gpu_check.md")
    return 0 if report.passed else 1


def arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--goldens", type=Path, help="folder of dev_a.safetensors [found beside]")
    parser.add_argument(
        "--parts", help=f"only these, with commas: {', '.join(p.name for p in PARTS)}"
    )
    parser.add_argument("--budget", type=float, default=1200, help="seconds for all parts")
    parser.add_argument("--work", type=Path, help="folder for temporary datasets and runs [/tmp]")
    parser.add_argument("--small", action="store_true", help="a dry run, also on a GPU")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile [on, off if small]"
    )
    return parser.parse_args()


def describe_machine(work: Path) -> dict[str, Any]:
    """The machine, as described by another process: this one never initialises the GPU."""
    code = "from xmdpt_cli.bench.machine import describe_gpu as describe; "
    code += "import json; print(json.dumps(describe()))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(work),
        capture_output=True,
        text=True,
        timeout=120,
    )
    if found.returncode:
        sys.exit(found.stderr)
    known: dict[str, Any] = json.loads(found.stdout)
    return known


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # parts are ended with it
    try:
        sys.exit(main())
    except XmdptError as err:
        sys.exit(f"error: {err.message}\nhint: {err.hint}")
