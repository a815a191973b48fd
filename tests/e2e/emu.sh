#!/bin/sh
# emu.sh SAMFORGE SAME_STATE SAMFORGE_EMU [STEPS [PRECISION]]: training on the CUDA kernels, on the emulated device, follows
# the CPU's losses within 2 %; both run the same program but for run.device and run.precision.
. "$(dirname "$0")/stage.sh"
emulated=$3 steps=${4:-4} precision=${5:-f32}
for device in emu cpu; do
    if [ $device = cpu ]; then precision=f32; fi
    quietly "$device" "$emulated" train "$config" data.train="$stage/train" run.folder="$stage/$device-run" run.device=$device \
        run.precision="$precision" \
        train.steps="$steps" 'optim.milestones=[3]'
    sed -n 's/.*"train\/loss\/total":\([^,]*\),.*/\1/p' "$stage/$device-run/metrics.jsonl" >"$stage/$device.losses"
done
[ "$(wc -l <"$stage/emu.losses")" = "$steps" ] || die "losses of $steps steps wanted"
paste "$stage/emu.losses" "$stage/cpu.losses" | awk '
    { d = $1 / $2 - 1; if (d < 0) d = -d; if (!(d <= worst)) worst = d }
    END { printf "-- %d steps, losses differ by %.2e at most\n", NR, worst; exit !(worst <= 0.02) }' || die "the losses part"
echo "passed"
