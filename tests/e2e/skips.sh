#!/bin/sh
# skips.sh SAMFORGE SAME_STATE [PROGRAM DEVICE [PRECISION]]: steps that must change nothing, on DEVICE of PROGRAM as on the CPU: those that are
# not finite, which are counted and too many of which end the run, and those without a mask.
. "$(dirname "$0")/stage.sh"
. "$(dirname "$0")/follow.sh"
program=${3:-$samforge} other=${4:-cpu} precision=${5:-f32}
spoil=$(dirname "$same_state")/spoil
[ "$precision" = f32 ] && loss_bound=1e-6 || loss_bound=2e-3 # emu.sh has the reasons

# on DEVICE NAME [argument…]: a run into $stage/NAME that keeps the checkpoint of every step; its exit code is $rc
on() {
    device=$1 name=$2 rc=0 in=f32
    [ "$device" = cpu ] || in=$precision
    shift 2
    "$program" train "$config" data.train="$stage/train" run.folder="$stage/$name" run.device="$device" run.precision=$in \
        checkpoint.every=1 checkpoint.keep=100 'optim.milestones=[6]' "$@" >"$stage/$name.log" 2>&1 || rc=$?
}

# still NAME: the steps of a run that left weights and moments as they were, as a list
still() {
    for step in $(seq "$(wc -l <"$stage/$1/metrics.jsonl")"); do
        before=$(printf '%s/%s/checkpoints/step-%08d' "$stage" "$1" $((step - 1)))
        after=$(printf '%s/%s/checkpoints/step-%08d' "$stage" "$1" "$step")
        [ "$step" != 1 ] || before=$stage/$2
        "$same_state" --values "$before" "$after" >"$stage/still.log" 2>&1 && printf '%s ' "$step"
        grep -q '^step\|^param\|^[mv]\[' "$stage/still.log" || die "$1, step $step: $(cat "$stage/still.log")"
    done
    echo
}

# steps_where NAME PATTERN: the steps of a run whose line in the metrics has it, as a list
steps_where() {
    sed -nE "/$2/s/.*\"step\":([0-9]+).*/\1/p" "$stage/$1/metrics.jsonl" | tr '\n' ' '
    echo
}

# some LIST N: of N steps at least one is in the list, and one is not
some() {
    # shellcheck disable=SC2086
    set -- $2 $1
    [ $# -gt 1 ] && [ $# -le "$1" ]
}

on cpu start train.steps=0
[ $rc = 0 ] || die "start: $(tail -n 3 "$stage/start.log")"
# a box's corner as large as a float can be: finite itself, and infinite in the first product or norm
"$spoil" "$stage/start" "$stage/spoiled.safetensors" prompt_encoder.point_embeddings.2.weight 3e38 || die "spoil"
on cpu spoiled train.steps=0 --weights "$stage/spoiled.safetensors"
[ $rc = 0 ] || die "spoiled: $(tail -n 3 "$stage/spoiled.log")"

for batch in 1 3; do
    [ $batch = 1 ] && share=0.3 || share=0.15 # so that steps that are finite come behind such that are not
    say "steps with a box are not finite, $batch a step"
    for device in cpu "$other"; do
        on "$device" "boxes-$batch-$device" --weights "$stage/spoiled.safetensors" train.steps=6 train.batch=$batch train.masks=1 \
            train.box_share=$share optim.bad_steps=6
        [ $rc = 0 ] || die "boxes on $device: $rc, $(tail -n 3 "$stage/boxes-$batch-$device.log")"
        skipped=$(steps_where "boxes-$batch-$device" '"nonfinite"')
        some "$skipped" 6 || die "of 6 steps some should be finite and others not, these are not: $skipped"
        [ "$(still "boxes-$batch-$device" spoiled)" = "$skipped" ] ||
            die "$device: not finite were $skipped, still stood $(still "boxes-$batch-$device" spoiled)"
        tail -n 1 "$stage/boxes-$batch-$device/metrics.jsonl" | grep -q "\"train/skipped\":$(echo "$skipped" | wc -w)," ||
            die "$device: $(echo "$skipped" | wc -w) steps were skipped, and the metrics say $(tail -n 1 "$stage/boxes-$batch-$device/metrics.jsonl")"
        echo "$skipped" >"$stage/$device.skipped"
        say "$device: skipped $skipped"
    done
    cmp -s "$stage/cpu.skipped" "$stage/$other.skipped" || die "other steps were skipped on $other than on the CPU"
    ! apart "boxes-$batch-$other" "boxes-$batch-cpu" train/loss/total $loss_bound || die "the losses part"
done

say "no step is finite"
on "$other" hopeless --weights "$stage/spoiled.safetensors" train.steps=8 train.batch=1 train.masks=1 train.box_share=1 optim.bad_steps=2
[ $rc = 5 ] || die "three bad steps in a row where two may be ended with $rc, not 5: $(tail -n 3 "$stage/hopeless.log")"
[ "$(wc -l <"$stage/hopeless/metrics.jsonl")" = 2 ] || die "not ended at the third step: $(cat "$stage/hopeless/metrics.jsonl")"
grep -q '"state": *"diverged"' "$stage/hopeless/status.json" || die "status.json does not say diverged: $(cat "$stage/hopeless/status.json")"

for batch in 1 3; do
    [ $batch = 1 ] && least=0.15 || least=0.2 # so that with three images a step, too, some steps have no mask at all
    say "images without a mask that is large enough, $batch a step"
    for device in cpu "$other"; do
        on "$device" "bare-$batch-$device" train.steps=6 train.batch=$batch data.min_area=$least
        [ $rc = 0 ] || die "bare on $device: $rc, $(tail -n 3 "$stage/bare-$batch-$device.log")"
    done
    bare=$(steps_where "bare-$batch-$other" '"train\/masks":0,')
    some "$bare" 6 || die "of 6 steps some should have masks and others none, these have none: $bare"
    [ "$(still "bare-$batch-$other" start)" = "$bare" ] ||
        die "without masks were $bare, still stood $(still "bare-$batch-$other" start)"
    ! apart "bare-$batch-$other" "bare-$batch-cpu" train/loss/total $loss_bound || die "the losses part"
done
echo "passed"
