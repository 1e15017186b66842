#!/usr/bin/env bash
# The shipped flagship from its seeds (docs/flagship.md, entries 4, 7 and 11): four sets of volumes and six trainings, each on from the weights before.
# Weights were made with the bound of explain_large_scales as it was until entry 8, which left the start of a few volumes of set2 as it was.
#   bash benchmarks/flagship.sh OUT      # OUT/sixth/weights.safetensors; what is there already is not made again
set -euo pipefail
out=$(realpath -m "${1:?name a folder for the sets and the runs}")
cd "$(dirname "$0")/.."
mkdir -p "$out"

train() { # name of the run, then settings
  local run=$out/$1
  shift
  [ -f "$run/weights.safetensors" ] || OMP_NUM_THREADS=1 python train.py experiment=flagship_small evaluate=false hydra.run.dir="$run" "$@"
}

# the start as it was until entry 11, and until entry 7
former=(data.prior.fine_scales=false data.prior.crop_phase=false)
plain=(data.prior.noise_scaled=false data.prior.large_scales=false "${former[@]}")
qsmdl simulate "$out/set0" --set 28 --jobs 2 experiment=flagship_small "${plain[@]}" seed=0
train first "${plain[@]}" data.cache.folder="$out/set0" seed=0 training.n_steps=1200
qsmdl simulate "$out/set1" --set 32 --jobs 2 experiment=flagship_small "${plain[@]}" seed=1
train second "${plain[@]}" data.cache.folder="$out/set1" seed=1 start_from="$out/first/weights.safetensors" \
  training.learning_rate=2e-3 training.n_steps=2100 training.stop_after=1023 training.validate_every=420
# batch norm as it will be used
train third "${plain[@]}" data.cache.folder="$out/set1" seed=1 start_from="$out/second/weights.safetensors" \
  training.learning_rate=1e-3 training.n_steps=960 training.freeze_norm=true training.validate_every=240

# calcifications and haemorrhages in more of the heads
lesions=(phantom.engine.lesions.calcification.probability=0.7 'phantom.engine.lesions.calcification.radius_mm=[1.5,6.0]'
  phantom.engine.lesions.haemorrhage.probability=0.25)
qsmdl simulate "$out/set2" --set 40 --jobs 2 experiment=flagship_small "${plain[@]}" "${lesions[@]}" seed=2
train fourth "${plain[@]}" "${lesions[@]}" data.cache.folder="$out/set2" seed=2 start_from="$out/third/weights.safetensors" \
  training.learning_rate=1.5e-3 training.n_steps=3600 training.freeze_norm=true training.validate_every=600
# the start that follows the noise and whose large scales explain the field
qsmdl simulate "$out/set2" --set 40 --jobs 2 experiment=flagship_small "${former[@]}" "${lesions[@]}" seed=2
train fifth "${former[@]}" "${lesions[@]}" data.cache.folder="$out/set2" seed=2 start_from="$out/fourth/weights.safetensors" \
  training.learning_rate=8e-4 training.n_steps=1400 training.freeze_norm=true training.validate_every=700
# fields without the phase of the crop, a start with both corrections; in 16 bits, since the weights that come with qsmdl may have 16 MB with their records
qsmdl simulate "$out/set3" --set 48 --jobs 2 experiment=flagship_small "${lesions[@]}" seed=3
train sixth "${lesions[@]}" data.cache.folder="$out/set3" seed=3 start_from="$out/fifth/weights.safetensors" \
  training.learning_rate=1.2e-3 training.n_steps=4000 training.freeze_norm=true training.validate_every=1000 training.half_weights=true
