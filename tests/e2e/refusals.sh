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
[ ! -e "$stage/none" ] || die "a refused run left its folder behind"
say "a device that goes by another name here"
ends 2 gpu "$samforge" train "$config" data.train="$stage/train" run.device=gpu
says "did you mean cuda?"
ends 2 gpu "$samforge" bench step "$config" --device gpu
says "did you mean cuda?"
ends 2 fp32 "$samforge" train "$config" data.train="$stage/train" run.precision=fp32
says "did you mean f32?"
echo "passed"
