#!/usr/bin/env bash
# The shipped flagship from its seeds (docs/flagship.md, entry 4): two sets of volumes and three trainings, each on from the weights before.
#   bash benchmarks/flagship.sh OUT      # OUT/third/weights.safetensors; what is there already is not made again
set -euo pipefail
out=$(realpath -m "${1:?name a folder for the sets and the runs}")
cd "$(dirname "$0")/.."
mkdir -p "$out"

train() { # name of the run, then settings
  local run=$out/$1
  shift
  [ -f "$run/weights.safetensors" ] || OMP_NUM_THREADS=1 python train.py experiment=flagship_small evaluate=false hydra.run.dir="$run" "$@"
}

qsmdl simulate "$out/set0" --set 28 --jobs 2 experiment=flagship_small seed=0
train first data.cache.folder="$out/set0" seed=0 training.n_steps=1200
qsmdl simulate "$out/set1" --set 32 --jobs 2 experiment=flagship_small seed=1
train second data.cache.folder="$out/set1" seed=1 start_from="$out/first/weights.safetensors" \
  training.learning_rate=2e-3 training.n_steps=2100 training.stop_after=1023 training.validate_every=420
# batch norm as it will be used
train third data.cache.folder="$out/set1" seed=1 start_from="$out/second/weights.safetensors" \
  training.learning_rate=1e-3 training.n_steps=960 training.freeze_norm=true training.validate_every=240
