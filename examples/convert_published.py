"""A published X-MDPT checkpoint -> a folder that ``XMDPT.from_pretrained`` reads.

python examples/convert_published.py CHECKPOINT.pt FOLDER
"""

from __future__ import annotations

import argparse

from xmdpt_cli import XMDPT, from_published

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("checkpoint", help=".pt or .safetensors with the published key names")
parser.add_argument("folder", help="where config.json and model.safetensors go")
arguments = parser.parse_args()

model = from_published(arguments.checkpoint)
model.save_pretrained(arguments.folder)
again = XMDPT.from_pretrained(arguments.folder)
counts = again.parameter_counts()
print(f"{arguments.folder}: {counts['inference']:,} parameters in inference")
