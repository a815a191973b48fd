#!/bin/sh
# damage.sh SAMFORGE SAME_STATE: what is damaged or gone in a run's folder costs no work in silence, and the cure that the program
# names is one.
. "$(dirname "$0")/stage.sh"

# goes_on CODE NAME [argument…]: the run in $stage/NAME, to that exit code
goes_on() {
    code=$1 name=$2
    shift 2
    ends "$code" "$name" "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/$name" "$@"
}

# lines N TEXT: how many lines of what the last run said have it
lines() { [ "$(grep -c -- "$2" "$log")" = "$1" ] || die "$log says not $1 but $(grep -c -- "$2" "$log") times: $2"; }

# copy NAME: of the run that stopped after five steps, with checkpoints of steps 4 and 5
copy() {
    rm -rf "${stage:?}/$1"
    cp -r "$stage/begun" "$stage/$1"
}

damage() { printf damage | dd of="$1" bs=1 seek=300 conv=notrunc status=none; }
id_of() { sed -n 's/.*"id": "\([^"]*\)".*/\1/p' "$stage/$1/run.json"; }

goes_on 0 whole
goes_on 85 begun --stop-after 5

say "the newest manifest is damaged"
copy run
damage "$stage/run/checkpoints/step-00000005/manifest.json"
goes_on 0 run train.steps=7
says "resumed at step 4" "steps 5 to 5 may be lost" "restore its manifest.json from a copy" "restore it now"
lines 1 "does not match its own hash"
lines 0 "error: "
goes_on 0 run
same_runs whole run
copy run # what the message asks for
damage "$stage/run/checkpoints/step-00000005/manifest.json"
goes_on 85 run checkpoint.every=0 --stop-after 2 # to step 6, and a commit that retires
cp "$stage/begun/checkpoints/step-00000005/manifest.json" "$stage/run/checkpoints/step-00000005"
[ -e "$stage/run/checkpoints/step-00000005/rank-0000.h5" ] || die "what could have been restored was retired"

say "and the newest values are"
copy run
damage "$stage/run/checkpoints/step-00000005/rank-0000.h5"
goes_on 0 run
says "resumed at step 4" "steps 5 to 5 are lost, and made again"
same_runs whole run

echo "passed"
