#!/usr/bin/env bash
# The shipped flagship from its seeds (docs/flagship.md, entries 4, 7, 11 and 16): four sets of volumes and six trainings, each on from the weights
# before. The same machine gives the same bits; not those of the shipped weights, whose second training ran on a processor without bfloat16, and whose
# fifth had the bound of explain_large_scales as it was until entry 8, which left the start of a few volumes of set2 as it was.
#   bash benchmarks/flagship.sh OUT              # OUT/sixth/weights.safetensors; what is there already is not made again
#   REHEARSAL=1 bash benchmarks/flagship.sh OUT2 # the same commands on next to nothing, in minutes
set -euo pipefail
out=$(realpath -m "${1:?name a folder for the sets and the runs}")
cd "$(dirname "$0")/.."
source benchmarks/flagship_common.sh
mkdir -p "$out"

train() { # name of the run, steps, then settings
  local run=$out/$1
  shift
  train_small "$run" "$@"
}

# the start as it was until entry 11, and until entry 7
former=(data.prior.fine_scales=false data.prior.crop_phase=false)
plain=(data.prior.noise_scaled=false data.prior.large_scales=false "${former[@]}")
make_set "$out/set0" 28 "${plain[@]}" seed=0
train first 1200 "${plain[@]}" data.cache.folder="$out/set0" seed=0
make_set "$out/set1" 32 "${plain[@]}" seed=1
train second 2100 "${plain[@]}" data.cache.folder="$out/set1" seed=1 start_from="$out/first/weights.safetensors" \
  training.learning_rate=2e-3 training.stop_after="$(either 1023 3)" training.validate_every="$(either 420 2)"
# batch norm as it will be used
train third 960 "${plain[@]}" data.cache.folder="$out/set1" seed=1 start_from="$out/second/weights.safetensors" \
  training.learning_rate=1e-3 training.freeze_norm=true training.validate_every="$(either 240 2)"

# calcifications and haemorrhages in more of the heads
make_set "$out/set2" 40 "${plain[@]}" "${lesions[@]}" seed=2
train fourth 3600 "${plain[@]}" "${lesions[@]}" data.cache.folder="$out/set2" seed=2 start_from="$out/third/weights.safetensors" \
  training.learning_rate=1.5e-3 training.freeze_norm=true training.validate_every="$(either 600 2)"
# the start that follows the noise and whose large scales explain the field
make_set "$out/set2" 40 "${former[@]}" "${lesions[@]}" seed=2
train fifth 1400 "${former[@]}" "${lesions[@]}" data.cache.folder="$out/set2" seed=2 start_from="$out/fourth/weights.safetensors" \
  training.learning_rate=8e-4 training.freeze_norm=true training.validate_every="$(either 700 2)"
# fields without the phase of the crop, a start with both corrections; in 16 bits, since the weights that come with qsmdl may have 16 MB with their records
make_set "$out/set3" 48 "${lesions[@]}" seed=3
train sixth 4000 "${lesions[@]}" data.cache.folder="$out/set3" seed=3 start_from="$out/fifth/weights.safetensors" \
  training.learning_rate=1.2e-3 training.freeze_norm=true training.validate_every="$(either 1000 2)" training.half_weights=true
