#!/bin/sh
# emu_tiny.sh SAMFORGE SAME_STATE SAMFORGE_EMU [STEPS]: configs/tiny.yaml, one image of 8 masks a step, trained in bf16 on the
# CUDA kernels, on the emulated device: the losses follow the CPU's f32 ones within 2 %. A step takes half a minute.
. "$(dirname "$0")/stage.sh"
emulated=$3 steps=${4:-20}
tiny=$(dirname "$config")/../../configs/tiny.yaml
quietly synth "$samforge" synth "$stage/tiny-tars" --images 24 --per-tar 24 --width 288 --height 240 --objects 6
quietly pack "$samforge" pack "$stage/tiny-tars" "$stage/tiny"
for device in cpu emu; do
    say "$steps steps on $device"
    quietly $device "$emulated" train "$tiny" data.train="$stage/tiny" run.folder="$stage/$device" run.device=$device \
        train.batch=1 train.masks=8 train.steps="$steps" optim.milestones="[$((steps * 2 / 3 + 1))]" optim.warmup=5 checkpoint.every=0
    sed -n 's/.*"train\/loss\/total":\([^,]*\),.*/\1/p' "$stage/$device/metrics.jsonl" >"$stage/$device.losses"
done
[ "$(wc -l <"$stage/emu.losses")" = "$steps" ] || die "losses of $steps steps wanted"
paste "$stage/emu.losses" "$stage/cpu.losses" | awk '
    { d = $1 / $2 - 1; if (d < 0) d = -d; if (!(d <= worst)) worst = d }
    END { printf "-- %d steps, losses differ by %.2e at most\n", NR, worst; exit !(worst <= 0.02) }' || die "the losses part"
echo "passed"
