# For flagship.sh and arms.sh, which source it: settings that both have, and a rehearsal.
# REHEARSAL=1: every set of two coarse volumes, every training of four steps, so that a script can be seen through in minutes; its weights are good for nothing.

lesions=(phantom.engine.lesions.calcification.probability=0.7 'phantom.engine.lesions.calcification.radius_mm=[1.5,6.0]'
  phantom.engine.lesions.haemorrhage.probability=0.25)
small=()
if [ -n "${REHEARSAL:-}" ]; then
  small=('acquisition.engine.protocol.voxel_size_mm=[4.0,4.0]' acquisition.engine.protocol.longest_edge_mm=8.0
    'data.patch_size=[16,16,16]' data.batches_per_volume=2 data.n_validation_volumes=1 'data.validation.voxel_size_mm=[6.0,6.0]')
fi

either() { # what is meant, and what a rehearsal takes in its place
  [ -n "${REHEARSAL:-}" ] && echo "$2" || echo "$1"
}

make_set() { # folder, number of volumes, then settings
  local folder=$1 n=$2
  shift 2
  qsmdl simulate "$folder" --set "$(either "$n" 2)" --jobs 2 experiment=flagship_small "${small[@]}" "$@"
}

train_small() { # folder of the run, steps, then settings
  local run=$1 n=$2
  shift 2
  [ -f "$run/weights.safetensors" ] || OMP_NUM_THREADS=1 python train.py experiment=flagship_small evaluate=false hydra.run.dir="$run" \
    "${small[@]}" training.n_steps="$(either "$n" 4)" "$@"
}
