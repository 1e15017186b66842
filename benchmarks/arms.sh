#!/usr/bin/env bash
# What a trained unrolled network owes to each of its parts: networks that differ in one thing, trained alike from nothing, and their scores on
# development heads (docs/flagship.md, entry 13). One seed each; a quarter of an hour of one core per training.
#   bash benchmarks/arms.sh OUT      # OUT/set3 is that of benchmarks/flagship.sh, and made where it is missing; what is there already is not made again
set -euo pipefail
out=$(realpath -m "${1:?name a folder for the set and the runs}")
cd "$(dirname "$0")/.."
lesions=(phantom.engine.lesions.calcification.probability=0.7 'phantom.engine.lesions.calcification.radius_mm=[1.5,6.0]'
  phantom.engine.lesions.haemorrhage.probability=0.25)
weights=()

train() { # name of the arm, then what is different in it
  local run=$out/arms/$1
  weights+=("$1=$run/weights.safetensors")
  shift
  [ -f "$run/weights.safetensors" ] || OMP_NUM_THREADS=1 python train.py experiment=flagship_small evaluate=false hydra.run.dir="$run" \
    "${lesions[@]}" data.cache.folder="$out/set3" seed=3 training.n_steps=800 training.validate_every=800 \
    "data.validation.voxel_size_mm=[2.0,2.0]" "$@"   # quick: the heads of the ladder are what counts
}

qsmdl simulate "$out/set3" --set 48 --jobs 2 experiment=flagship_small "${lesions[@]}" seed=3
train all
train field network.keywords.misfit=field
train one network.keywords.n_steps=1
train three network.keywords.n_steps=3
train unweighted network.keywords.weighted=false
train blind network.keywords.data_step=none 'network.keywords.sees=[iterate,channels]'
python benchmarks/ladder.py "$out/arms/ladder" --weights "${weights[@]}" --phantoms 2 --snr 100
