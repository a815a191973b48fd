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

say "run.json is damaged, empty, or gone: the checkpoints know the run"
for how in damaged empty gone; do
    copy run
    case $how in
    damaged) echo '{"id": "20' >"$stage/run/run.json" ;;
    empty) : >"$stage/run/run.json" ;;
    gone) rm "$stage/run/run.json" ;;
    esac
    goes_on 0 run
    says "run.json is $([ $how = gone ] && echo missing || echo damaged): made anew for run $(id_of begun)" "resumed at step 5"
    lines 0 "error: "
    [ "$(id_of run)" = "$(id_of begun)" ] || die "the run has become $(id_of run)"
    same_runs whole run
    goes_on 0 run
    lines 0 "warn: "
done

say "and checkpoints of two runs know none"
goes_on 85 other --stop-after 3
copy run
cp -r "$stage/other/checkpoints/step-00000003" "$stage/run/checkpoints"
rm "$stage/run/run.json"
goes_on 4 run
says "not of one run" "step-00000003" "move out what does not belong"
[ ! -e "$stage/run/run.json" ] || die "a refused start has named the run"
rm -rf "$stage/run/checkpoints/step-00000003"
goes_on 0 run
same_runs whole run

say "nor do damaged ones"
copy run
: >"$stage/run/run.json"
for step in 4 5; do damage "$stage/run/checkpoints/step-0000000$step/manifest.json"; done
goes_on 4 run
says "none of 2 checkpoints has a manifest" "--fresh"
cp "$stage/begun/checkpoints/step-00000004/manifest.json" "$stage/run/checkpoints/step-00000004"
goes_on 0 run
says "resumed at step 4"

say "--fresh asks nothing of run.json"
for how in damaged gone; do
    copy run
    echo '{' >"$stage/run/run.json"
    [ $how = damaged ] || rm "$stage/run/run.json"
    goes_on 0 run --fresh
    same_runs whole run
    [ -e "$stage"/run/old-*/checkpoints/step-00000005 ] || die "the run that was there was not set aside"
done

say "run.json of another run: removing it, as the message says, is a cure"
copy run
cp "$stage/other/run.json" "$stage/run"
goes_on 4 run
says "copied from elsewhere; if run.json is what was copied, remove that"
rm "$stage/run/run.json"
goes_on 0 run
same_runs whole run

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

say "the newest manifest is gone, and comes back"
copy run
rm "$stage/run/checkpoints/step-00000005/manifest.json"
goes_on 85 run checkpoint.every=0 --stop-after 2
says "resumed at step 4" "restore its manifest.json from a copy"
[ -e "$stage/run/checkpoints/step-00000005/rank-0000.h5" ] || die "what could have been restored was retired"

say "what cannot be read is not given up"
# may COMMAND…: as somebody whom the files' modes bind
may() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all "$@"
    else
        "$@"
    fi
}
if may true 2>/dev/null; then
    for file in manifest.json rank-0000.h5; do
        copy run
        chmod 000 "$stage/run/checkpoints/step-00000005/$file"
        ends 1 run may "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/run"
        says "$file cannot be read: Permission denied; mend that"
        lines 0 "resumed"
        chmod 644 "$stage/run/checkpoints/step-00000005/$file"
        goes_on 0 run
        says "resumed at step 5"
        same_runs whole run
    done
    copy run
    chmod 000 "$stage/run/checkpoints/step-00000005/rank-0000.h5"
    ends 1 weights may "$samforge" inspect "$stage/run"
    says "rank-0000.h5 cannot be read"
    rm -rf "$stage/run"
else
    say "skipped: nobody here is bound by modes"
fi

say "a folder of somebody else's"
mkdir "$stage/others" && echo mine >"$stage/others/config.yaml" && echo mine >"$stage/others/thesis.txt"
goes_on 2 others
says "holds no run, and a config.yaml, which a run would write over"
[ "$(cat "$stage/others/config.yaml")" = mine ] || die "it was written over"
rm "$stage/others/config.yaml"
goes_on 85 others --stop-after 1
goes_on 85 others --fresh --stop-after 1
[ "$(cat "$stage/others/thesis.txt")" = mine ] || die "--fresh has moved what is not the run's"
[ -e "$stage/others"/old-*/metrics.jsonl ] || die "--fresh has not moved what is the run's"

mkdir "$stage/made" "$stage/made/logs" && cp "$config" "$stage/made/config.yaml"
for fresh in "" --fresh; do # the configuration may lie in the run's folder, and logs of the job
    # shellcheck disable=SC2086
    ends 85 made "$samforge" train "$stage/made/config.yaml" data.train="$stage/train" run.folder="$stage/made" --stop-after 1 $fresh
    cmp "$config" "$stage/made/config.yaml" || die "the configuration is not where it was"
done

say "nothing to learn from"
goes_on 2 bare train.steps=1 data.min_area=0.89
says "no image of .* that was seen has a mask"

say "and the newest values are"
copy run
damage "$stage/run/checkpoints/step-00000005/rank-0000.h5"
goes_on 0 run
says "resumed at step 4" "steps 5 to 5 are lost, and made again"
same_runs whole run

say "the checkpoints are gone"
copy run
rm -r "$stage/run/checkpoints"
cp -r "$stage/run" "$stage/before"
goes_on 4 run
says "has saved checkpoints" "status.json" "restore" "--fresh"
for file in run.json metrics.jsonl status.json; do
    cmp -s "$stage/run/$file" "$stage/before/$file" || die "a refused start has changed $file"
done
cp -r "$stage/begun/checkpoints" "$stage/run"
goes_on 0 run
same_runs whole run
copy run
rm -r "$stage/run/checkpoints"
goes_on 0 run --fresh
same_runs whole run
say "and so is what says that there were some"
copy run
rm -r "$stage/run/checkpoints" "$stage/run/status.json"
goes_on 0 run
says "warn: this run had come to step 5 and has no checkpoint" "if its checkpoints were removed, stop it now and restore them"
same_runs whole run

say "metrics are cut"
for torn in no yes; do
    copy run
    sed -i 4,5d "$stage/run/metrics.jsonl"
    [ $torn = no ] || printf '{"step":4,"train/lo' >>"$stage/run/metrics.jsonl"
    goes_on 0 run
    lines 1 "warn: .*metrics.jsonl has lines for 3 of the 5 steps"
done
copy run
printf '{"step":6,"train/lo' >>"$stage/run/metrics.jsonl" # of a kill; nothing is missing
goes_on 0 run
lines 0 "warn: "
same_runs whole run
echo "passed"
