#!/bin/sh
# emu.sh SAMFORGE SAME_STATE SAMFORGE_EMU [STEPS [PRECISION]]: training on the CUDA kernels, on the emulated device, follows the CPU's
# losses within 2 %, goes on after a stop to the same bits, and scores as on the CPU; both run the same program but for
# the device. Host code that touches device memory ends samforge_emu, so that whatever passes here stages what it reads.
# On a GPU: ACCELERATOR=cuda in the environment, and SAMFORGE twice.
. "$(dirname "$0")/stage.sh"
emulated=$3 accelerator=${ACCELERATOR:-emu} steps=${4:-4} emu_precision=${5:-f32}

# on DEVICE NAME [setting…]: a run into $stage/NAME
on() {
    device=$1 name=$2 precision=f32
    shift 2
    [ "$device" = cpu ] || precision=$emu_precision
    quietly "$name" "$emulated" train "$config" data.train="$stage/train" run.folder="$stage/$name" run.device="$device" run.precision="$precision" \
        'optim.milestones=[3]' "$@"
}

# follow WHAT [setting…]: the losses of both devices, within 2 %
follow() {
    what=$1
    shift
    for device in $accelerator cpu; do
        on $device "$what-$device" "$@"
        sed -n 's/.*"train\/loss\/total":\([^,]*\),.*/\1/p' "$stage/$what-$device/metrics.jsonl" >"$stage/$device.losses"
    done
    [ "$accelerator" = emu ] || mv "$stage/$accelerator.losses" "$stage/emu.losses"
    [ -s "$stage/emu.losses" ] && [ "$(wc -l <"$stage/emu.losses")" = "$(wc -l <"$stage/cpu.losses")" ] || die "$what: no losses"
    paste "$stage/emu.losses" "$stage/cpu.losses" | awk -v what="$what" '
        { d = $1 / $2 - 1; if (d < 0) d = -d; if (!(d <= worst)) worst = d }
        END { printf "-- %s: %d steps, losses differ by %.2e at most\n", what, NR, worst; exit !(worst <= 0.02) }' ||
        die "$what: the losses part"
}

follow plain train.steps="$steps"
follow through train.steps=1 train.batch=2 train.through_rounds=true train.box_multimask=false loss.iou_all=true
# one slot of one rank: the device's gradient is the sum, which never leaves it
follow alone train.steps=2 train.batch=1

say "stopped and resumed"
on "$accelerator" whole train.steps=4 train.batch=2
rc=0
"$emulated" train "$config" data.train="$stage/train" run.folder="$stage/parts" run.device="$accelerator" run.precision="$emu_precision" 'optim.milestones=[3]' \
    train.steps=4 train.batch=2 --stop-after 2 >"$stage/stop.log" 2>&1 || rc=$?
[ $rc = 85 ] || die "--stop-after ended with $rc"
on "$accelerator" parts train.steps=4 train.batch=2
same_runs whole parts

if has_ranks; then
    say "on two ranks"
    quietly ranks "$emulated" launch -n 2 train "$config" data.train="$stage/train" run.folder="$stage/ranks" run.device="$accelerator" \
        run.share_gpu=true run.precision="$emu_precision" 'optim.milestones=[3]' train.steps=4 train.batch=2
    same_runs whole ranks
fi

say "scores"
for device in "$accelerator" cpu; do
    "$emulated" eval "$stage/whole" "$stage/val" --device $device --max-images 2 --max-masks 3 --clicks 3 --json \
        >"$stage/$device.scores" 2>"$stage/eval.log" || die "eval on $device: $(tail -n 3 "$stage/eval.log")"
done
[ "$accelerator" = emu ] || mv "$stage/$accelerator.scores" "$stage/emu.scores"
# a logit within rounding of 0 turns a pixel over: of masks of hundreds of pixels, one in a hundred at most
paste "$stage/emu.scores" "$stage/cpu.scores" | awk '
    $1 ~ /click|box|oracle/ && $2 != "null," { d = $2 - $4; if (d < 0) d = -d; if (!(d <= worst)) worst = d; n++ }
    END { printf "-- %d scores differ by %.2e at most\n", n, worst; exit !(n >= 8 && worst <= 0.01) }' || {
    cat "$stage/emu.scores" "$stage/cpu.scores"
    die "the scores part"
}
echo "passed"
