#!/bin/sh
# refusals.sh SAMFORGE SAME_STATE: what is asked wrongly ends with the exit code that stands for it, names cause and cure, and leaves
# nothing behind. On a machine without a GPU or with one.
. "$(dirname "$0")/stage.sh"
unset SAMFORGE_PLUGIN

say "data that is not there"
mkdir "$stage/empty"
for what in empty nowhere; do
    ends 2 data "$samforge" train "$config" data.train="$stage/$what" run.folder="$stage/none"
    says "samforge pack"
    ends 2 loader "$samforge" bench loader "$stage/$what"
done
ends 2 inspect "$samforge" inspect "$stage/nowhere"
says "name a folder of shards"
ln -s loop "$stage/loop"
ends 1 inspect "$samforge" inspect "$stage/loop" # it may be there
ends 2 pack "$samforge" pack "$stage/nowhere" "$stage/none"
says "name tars"
ends 2 pack "$samforge" pack "$config" "$stage/none"
says "is no tar"
ends 2 pack "$samforge" pack "$stage/tars" "$config"
says "is a file: name a folder"
head -c 3000 "$stage/tars/sa_000000.tar" >"$stage/cut.tar"
ends 4 pack "$samforge" pack "$stage/cut.tar" "$stage/cut" # a tar all the same
say "a file where a folder is to be"
ends 2 folder "$samforge" train "$config" data.train="$stage/train" run.folder="$config"
says "is a file: name a folder"
say "a configuration that says nothing"
ends 2 config "$samforge" train /dev/null data.train="$stage/train" run.folder="$stage/none"
says "sets nothing" "configs/micro.yaml"
say "a device that goes by another name here"
ends 2 gpu "$samforge" train "$config" data.train="$stage/train" run.device=gpu
says "did you mean cuda?"
ends 2 gpu "$samforge" bench step "$config" --device gpu
says "did you mean cuda?"
ends 2 fp32 "$samforge" train "$config" data.train="$stage/train" run.precision=fp32
says "did you mean f32?"
say "commands that are none"
ends 2 launch "$samforge" launch -n 2 pack "$stage/tars" "$stage/none"
says "launch runs train or eval" "not pack"
ends 2 launch "$samforge" launch -n 2 plan "$config"
says "not plan"
ends 2 launch "$samforge" launch -n 1000 "$config" data.train="$stage/train" run.folder="$stage/none"
says "1000 ranks for a batch of 6" "-n 6 or fewer"
# what only prints needs no ranks, nor the mpirun that they need
for words in "$config --dump-config" "train --fields" "train --help" "eval --help"; do
    # shellcheck disable=SC2086
    ends 0 launch env PATH=/nowhere "$samforge" launch -n 1000 $words
done
ends 2 bench "$samforge" bench stpe "$config"
says "did you mean step?" "bench --help"
ends 2 loader "$samforge" bench loader "$stage/train" --count
says "leave out --count"
ends 2 loader "$samforge" bench loader "$stage/train" --device cpu
says "leave out --device"
ends 2 loader "$samforge" bench loader "$stage/train" --steps 3
says "leave out --steps"
ends 2 step "$samforge" bench step "$config" --threads 2
says "leave out --threads"
ends 2 loader "$samforge" bench loader "$stage/train" train.batch=2
says "folder of shards alone"
for command in train plan "bench step"; do
    # shellcheck disable=SC2086
    ends 2 missing "$samforge" $command configs/none.yaml
    says "none.yaml: No such file or directory; name a configuration"
done

say "settings that do not fit"
ends 2 absorb "$samforge" plan "$config" run.absorb=on train.rounds=40
says "come to 45; say train.rounds=11 or fewer"
ends 0 absorb "$samforge" plan "$config" run.absorb=on train.rounds=11
ends 2 absorb "$samforge" plan "$config" run.absorb=on train.rounds=12

for setting in run.graph=on run.precision=bf16; do
    ends 2 setting "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/none" $setting
    says "device cpu"
    ends 2 setting "$samforge" bench step "$config" $setting
    ends 2 setting "$samforge" bench step "$config" $setting --count
    says "device cpu"
done

say "devices that are not there"
ends 3 emu "$samforge" bench step "$config" --device emu
says "samforge_emu has" "cpu computes the same"
ends 3 emu "$samforge" plan "$config" run.device=emu
says "samforge_emu has"
ends 3 elf env SAMFORGE_PLUGIN="$stage" "$samforge" bench step "$config" --device cuda
says "is a folder, not a module" "or unset it"
echo nothing >"$stage/rubbish.so"
ends 3 elf env SAMFORGE_PLUGIN="$stage/rubbish.so" "$samforge" bench step "$config" --device cuda
says "rubbish.so" "or unset it"
ends 3 elf env SAMFORGE_PLUGIN="$stage/nowhere.so" "$samforge" bench step "$config" --device cuda
says "nowhere.so" "or unset it"
say "a run whose newest checkpoint is damaged"
ends 0 run "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/run"
ends 0 inspect "$samforge" inspect "$stage/run"
says "step 8,"
for file in rank-0000.h5 manifest.json; do
    rm -rf "$stage/copy"
    cp -r "$stage/run" "$stage/copy"
    printf damage | dd of="$stage/copy/checkpoints/step-00000008/$file" bs=1 seek=300 conv=notrunc status=none
    ends 4 inspect "$samforge" inspect "$stage/copy"
    says "step 6," "restore"
    case $file in
    manifest.json) says "1 damaged without a manifest" ;; # whether it is newer, only the manifest told
    *) says "1 newer checkpoint is damaged" ;;
    esac
    ends 4 inspect "$samforge" inspect "$stage/copy" --json
    case $file in
    manifest.json) says '"newer_damaged": 0' '"unreadable": 1' ;;
    *) says '"newer_damaged": 1' '"unreadable": 0' ;;
    esac
done

say "a disk without room for a checkpoint: no step is begun, by no restart either"
if unshare -rm true 2>/dev/null; then
    mkdir "$stage/disk"
    # shellcheck disable=SC2016
    ends 1 full unshare -rm sh -c 'mount -t tmpfs -o size=3m none "$1" && shift && "$@"' - "$stage/disk" \
        "$samforge" launch --restarts 1 train "$config" data.train="$stage/train" run.folder="$stage/disk/run"
    says "a checkpoint needs .* MB and the disk has" "1 restarts in a row brought no progress"
    ! grep -q "step:" "$log" || die "it has trained all the same"
else
    say "skipped: no name space to mount a small disk in"
fi

say "what is neither a run nor a checkpoint nor weights, and never was"
cp -r "$stage/run" "$stage/lost"
rm -rf "$stage/lost/checkpoints"
cp -r "$stage/lost" "$stage/young"
rm "$stage/young/status.json"
ends 4 lost "$samforge" inspect "$stage/lost" # it has had some
says "has saved checkpoints" "restore"
mkdir "$stage/parent"
ln -s "$stage/train" "$stage/parent/shards"
cp "$config" "$stage/text.safetensors"
for command in "inspect" "eval"; do
    for what in young parent empty text.safetensors run/checkpoints; do
        set -- "$stage/$what"
        [ $command = inspect ] || set -- "$@" "$stage/val" --config "$config"
        ends 2 none "$samforge" $command "$@"
        case $what in
        young) says "without a checkpoint: the first comes after" ;;
        parent) says "such as .*parent/shards" ;;
        empty) says "name one of these" ;;
        text*) says "is a text, not weights" ;;
        *) says "such as .*step-00000008" ;;
        esac
    done
done
ends 2 none "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/none" --weights "$config"
says "is a file" "safetensors"

say "rolled back: the newest is not of the greatest step"
rm -rf "$stage/copy"
cp -r "$stage/run" "$stage/copy"
damage() { printf damage | dd of="$stage/copy/checkpoints/step-0000000$1/rank-0000.h5" bs=1 seek=300 conv=notrunc status=none; }
damage 8
ends 85 rolled "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/copy" --stop-after 1
says "resumed at step 6"
ends 0 inspect "$samforge" inspect "$stage/copy" # 8 is damaged, and older than 7
says "step 7,"
rm -rf "$stage/copy/checkpoints/step-00000008"
cp -r "$stage/run/checkpoints/step-00000008" "$stage/copy/checkpoints"
ends 0 inspect "$samforge" inspect "$stage/copy"
says "step 7,"
damage 7
ends 4 inspect "$samforge" inspect "$stage/copy"
says "step 8," "1 newer checkpoint is damaged"

say "anew, with weights out of the folder that is set aside"
once="train.steps=1 optim.milestones=[3]"
for weights in run run/checkpoints/step-00000006; do
    rm -rf "$stage/copy"
    cp -r "$stage/run" "$stage/copy"
    # shellcheck disable=SC2086
    ends 0 outside "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/outside" $once --fresh --weights "$stage/$weights"
    # shellcheck disable=SC2086
    ends 0 inside "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/copy" $once --fresh --weights "$stage/copy${weights#run}"
    same_runs outside copy
done
say "and killed before its first checkpoint: the same command without --fresh, as launch says it, goes on"
rm -rf "$stage/copy"
cp -r "$stage/run" "$stage/copy"
long="train.steps=100000 checkpoint.every=100000 optim.milestones=[3]"
# shellcheck disable=SC2086
"$samforge" train "$config" data.train="$stage/train" run.folder="$stage/copy" $long --fresh --weights "$stage/copy" >"$stage/killed.log" 2>&1 &
waited=0
until grep -q 'step: *1 ' "$stage/killed.log"; do
    [ $((waited += 1)) -le 300 ] || die "no step after 30 s: $(tail -n 3 "$stage/killed.log")"
    sleep 0.1
done
kill -9 $!
{ wait $!; } 2>/dev/null || true
# shellcheck disable=SC2086
ends 85 again "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/copy" $long --weights "$stage/copy" --stop-after 1
says "resumed at step 0"

rm -rf "$stage/copy"
cp -r "$stage/run" "$stage/copy"
# shellcheck disable=SC2086
ends 2 nowhere "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/copy" $once --fresh --weights "$stage/nowhere"
[ -e "$stage/copy/checkpoints/step-00000008" ] || die "the run was set aside for weights that are not there"

say "weights that are not there, for a run that would be new"
ends 2 nowhere "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/none" --weights "$stage/nowhere"
says "nowhere: No such file"

[ ! -e "$stage/none" ] || die "a refused run left its folder behind"
echo "passed"
