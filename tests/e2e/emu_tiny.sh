#!/bin/sh
# emu_tiny.sh SAMFORGE SAME_STATE SAMFORGE_EMU [STEPS]: the first steps of configs/tiny.yaml, one image of 8 masks each, trained in
# bf16 on the CUDA kernels, on the emulated device: the losses follow the CPU's f32 ones within 2 %. A step takes half a minute.
#
# A run magnifies what it began with, the more the greater its learning rate: with a warm-up of five steps, weights that differ at the
# start by up to 2^-9 of themselves, bf16's spacing, change losses of the f32 CPU by 1.6 to 4.6 % at most (docs/numerics.md). The
# config's own is of 100 steps. A learning rate of 0 is 15 % apart in the middle.
. "$(dirname "$0")/stage.sh"
. "$(dirname "$0")/follow.sh"
emulated=$3 steps=${4:-20}
tiny=$(dirname "$config")/../../configs/tiny.yaml
quietly synth "$samforge" synth "$stage/tiny-tars" --images 24 --per-tar 24 --width 288 --height 240 --objects 6
quietly pack "$samforge" pack "$stage/tiny-tars" "$stage/tiny"

# first_steps NAME DEVICE [setting…]
first_steps() {
    name=$1 device=$2
    shift 2
    say "$steps steps on $device${*:+, $*}"
    rc=0
    "$emulated" train "$tiny" data.train="$stage/tiny" run.folder="$stage/$name" run.device="$device" train.batch=1 train.masks=8 \
        run.timeout_s=3000 --stop-after "$steps" "$@" >"$stage/$name.log" 2>&1 || rc=$? # a step takes minutes on a machine that is busy otherwise
    [ $rc = 85 ] || die "--stop-after ended with $rc: $(tail -n 3 "$stage/$name.log")"
    [ "$(wc -l <"$stage/$name/metrics.jsonl")" = "$steps" ] || die "metrics of $steps steps wanted"
}
first_steps cpu cpu
first_steps idle cpu optim.lr=0
apart idle cpu train/loss/total 2e-3 || die "losses do not tell a learning rate of 0"
first_steps emu emu run.precision=bf16
! apart emu cpu train/loss/total 2e-3 || die "the losses part"
echo "passed"
