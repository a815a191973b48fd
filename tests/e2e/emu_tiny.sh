#!/bin/sh
# emu_tiny.sh SAMFORGE SAME_STATE SAMFORGE_EMU [STEPS]: configs/tiny.yaml, one image of 8 masks a step, trained in bf16 on the
# CUDA kernels, on the emulated device: the losses follow the CPU's f32 ones. A step takes half a minute.
#
# How near (follow.sh): by 1 % in the middle, 10 % at most. This run magnifies: its learning rate is at its peak after five steps, and weights that
# differ at the start by up to 2^-9 of themselves, bf16's spacing, change losses of the f32 CPU by 0.1 to 0.5 % in the middle and by 1.6 to 4.6 % at
# most, in the same steps as the device's (docs/numerics.md). One that does not learn is 120 % apart in
# the middle.
. "$(dirname "$0")/stage.sh"
. "$(dirname "$0")/follow.sh"
emulated=$3 steps=${4:-20}
tiny=$(dirname "$config")/../../configs/tiny.yaml
quietly synth "$samforge" synth "$stage/tiny-tars" --images 24 --per-tar 24 --width 288 --height 240 --objects 6
quietly pack "$samforge" pack "$stage/tiny-tars" "$stage/tiny"
for device in cpu emu; do
    say "$steps steps on $device"
    quietly $device "$emulated" train "$tiny" data.train="$stage/tiny" run.folder="$stage/$device" run.device=$device \
        train.batch=1 train.masks=8 train.steps="$steps" optim.milestones="[$((steps * 2 / 3 + 1))]" optim.warmup=5 checkpoint.every=0 \
        run.timeout_s=3000 # a step takes minutes on a machine that is busy otherwise
done
[ "$(wc -l <"$stage/emu/metrics.jsonl")" = "$steps" ] || die "metrics of $steps steps wanted"
! apart emu cpu train/loss/total 1e-2 || die "the losses part"
echo "passed"
