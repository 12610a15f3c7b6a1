"""Import every module of the installed package; exit 1 where one cannot be imported.

A module that needs an optional extra may raise an ImportError that names the missing package; it
is printed with it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import xmdpt_cli

# import name -> extra of pyproject.toml
OPTIONAL = {
    "lmdb": "lmdb",
    "aiohttp": "http",
    "paramiko": "sftp",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "wandb": "wandb",
    "trackio": "trackio",
    "gradio": "ui",
    "starlette": "ui",  # which gradio brings
    "pillow_heif": "heic",
    "torch_fidelity": "fidelity",
}


def main() -> int:
    names = [info.name for info in pkgutil.walk_packages(xmdpt_cli.__path__, "xmdpt_cli.")]
    imported, optional, broken = 0, 0, 0
    for name in names:
        try:
            importlib.import_module(name)
            imported += 1
        except ImportError as err:
            missing = (err.name or "").partition(".")[0]
            if missing in OPTIONAL:
                print(f"{name}: needs {missing} (xmdpt-cli[{OPTIONAL[missing]}])")
                optional += 1
            else:
                print(f"{name}: {type(err).__name__}: {err}", file=sys.stderr)
                broken += 1
        except Exception as err:
            print(f"{name}: {type(err).__name__}: {err}", file=sys.stderr)
            broken += 1
    print(f"{xmdpt_cli.__file__}: {imported} modules imported, {optional} need an extra")
    return 1 if broken or not imported else 0


if __name__ == "__main__":
    sys.exit(main())
