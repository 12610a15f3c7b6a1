"""What ``xmdpt convert CHECKPOINT.pt --out FOLDER`` does, in Python: a published checkpoint -> a
folder that ``xmdpt sample`` and ``XMDPT.from_pretrained`` read.

python examples/convert_published.py CHECKPOINT.pt FOLDER
"""

from __future__ import annotations

import argparse

from xmdpt_cli import XMDPT, from_published
from xmdpt_cli.model import parameter_counts
from xmdpt_cli.model.checkpoint import published_metadata, save_model

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("checkpoint", help=".pt or .safetensors with the published key names")
parser.add_argument("folder", help="where config.json, model.safetensors and xmdpt.json go")
arguments = parser.parse_args()

model = from_published(arguments.checkpoint)
save_model(arguments.folder, model, published_metadata(model))
again = XMDPT.from_pretrained(arguments.folder)
counts = parameter_counts(again)
print(f"{arguments.folder}: {counts['inference']:,} parameters in inference")
