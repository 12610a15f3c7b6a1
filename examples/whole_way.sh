#!/usr/bin/env bash
# The five commands on synthetic people, small enough to watch: under two minutes on two CPU cores.
# The pictures will be poor at so few steps; `xmdpt demo` takes the time to make them better.
#   bash examples/whole_way.sh [FOLDER] [PEOPLE] [TRAIN_STEPS] [VAE_STEPS]
set -euo pipefail
out=${1:-whole-way} people=${2:-60} steps=${3:-150} vae_steps=${4:-300}

xmdpt synth --out "$out/raw" --people "$people" --test-people 4 --plain --height 128
xmdpt prepare --root "$out/raw" --out "$out/data" --size 64 --encoders toy --vae-steps "$vae_steps"
xmdpt train --data "$out/data" --out "$out/run" --preset demo/tokens-64 --steps "$steps"
xmdpt sample --data "$out/data" --model "$out/run" --out "$out/samples"
xmdpt evaluate --data "$out/data" --generated "$out/samples" --synthetic
echo "look at $out/samples/sheet.png"
