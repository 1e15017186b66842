#!/usr/bin/env bash
# What a trained unrolled network owes to each of its parts and to what it is trained on: networks that differ in one thing, trained alike from nothing,
# and their scores on development heads (docs/flagship.md, entries 13 and 18). One seed each; a quarter of an hour of one core per training, three quarters of an
# hour of two cores for set3, a quarter for each set of `mix`.
#   bash benchmarks/arms.sh OUT              # OUT/set3 is that of benchmarks/flagship.sh, and made where it is missing; what is there already is not made again
#   REHEARSAL=1 bash benchmarks/arms.sh OUT2 # the same commands on next to nothing, in minutes
set -euo pipefail
out=$(realpath -m "${1:?name a folder for the set and the runs}")
cd "$(dirname "$0")/.."
source benchmarks/flagship_common.sh
weights=()

train() { # name of the arm, then what is different in it
  local arm=$1
  shift
  weights+=("$arm=$out/arms/$arm/weights.safetensors")
  train_small "$out/arms/$arm" 800 "${lesions[@]}" data.cache.folder="$out/set3" seed=3 training.validate_every="$(either 800 4)" \
    "data.validation.voxel_size_mm=[$(either 2.0,2.0 6.0,6.0)]" "$@"   # quick: the heads of the ladder are what counts
}

mix() { # name of the arm, then the kinds of samples that it is trained on, a third as many volumes
  local kinds="phantom.engine.kinds=$2"
  make_set "$out/mix/$1" 16 "${lesions[@]}" "$kinds" seed=3
  train "$1" data.cache.folder="$out/mix/$1" "$kinds"
}

make_set "$out/set3" 48 "${lesions[@]}" seed=3
train all
train field network.keywords.misfit=field
train one network.keywords.n_steps=1
train three network.keywords.n_steps=3
train unweighted network.keywords.weighted=false
train blind network.keywords.data_step=none 'network.keywords.sees=[iterate,channels]'
train narrow network.keywords.width=8
train wide network.keywords.width=16
mix heads '{head:1,shapes:0,texture:0,label_map:0}'
mix shapes '{head:0,shapes:1,texture:0,label_map:0}'
mix texture '{head:0,shapes:0,texture:1,label_map:0}'
mix all_kinds '{head:0.5,shapes:0.25,texture:0.25,label_map:0}'
python benchmarks/ladder.py "$out/arms/ladder" --weights "${weights[@]}" --phantoms 2 --snr 100 --one-pass --voxel-size "$(either 1 5)"
python benchmarks/mix.py "$out/mix/samples" --weights "${weights[@]: -4}" --samples "$(either 4 1)" --jobs 2   # those of mix
