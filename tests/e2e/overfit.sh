#!/bin/sh
# overfit.sh SAMFORGE SAME_STATE [SEED…]: the learning bar. micro on the eight photographs of ../shared/data/bsds_overfit
# for 600 steps on two ranks, and the same with the images hidden, so that what the clicks and boxes alone give away is
# known. About four minutes a seed on two cores. Skipped where the photographs are not.
. "$(dirname "$0")/stage.sh"
needs_ranks
photos=$(dirname "$0")/../../../shared/data/bsds_overfit
[ -d "$photos" ] || {
    echo "skipped: $photos is not there"
    exit 77
}
shift 2
[ $# -gt 0 ] || set -- 0
micro=$(dirname "$0")/../../configs/micro.yaml
for split in train val; do quietly "pack-$split" "$samforge" pack "$photos/$split" "$stage/photos-$split"; done

# learn NAME SEED [setting…]: its scores into $stage/NAME-eval.log
learn() {
    learn_name=$1 learn_seed=$2
    shift 2
    quietly "$learn_name" "$samforge" launch -n 2 train "$micro" data.train="$stage/photos-train" data.min_area=0.01 \
        run.folder="$stage/$learn_name" train.steps=600 'optim.milestones=[400,578]' train.seed="$learn_seed" "$@"
    quietly "$learn_name-eval" "$samforge" eval "$stage/$learn_name" "$stage/photos-val" --max-masks 20 --clicks 3 --json
}

# score NAME KEY
score() {
    sed -n "/\"model\"/,/}/s/.*\"$2\": \([0-9.]*\).*/\1/p" "$stage/$1-eval.log"
}

# at_least WHAT VALUE BAR
at_least() {
    awk -v x="$2" -v bar="$3" 'BEGIN { exit !(x >= bar) }' || die "$1 is $2, at least $3 wanted"
}

for seed; do
    learn "sees-$seed" "$seed"
    learn "blind-$seed" "$seed" data.blind=true
    for key in click_1 click_3 oracle box; do
        eval "$key=$(score "sees-$seed" $key) blind_$key=$(score "blind-$seed" $key)"
    done
    # shellcheck disable=SC2154
    say "seed $seed: 1-click $click_1 (blind $blind_click_1), 3-click $click_3 ($blind_click_3), oracle $oracle ($blind_oracle), box $box ($blind_box)"
    at_least oracle "$oracle" 0.48
    at_least 3-click "$click_3" 0.46
    at_least 1-click "$click_1" 0.39
    at_least box "$box" 0.58
    at_least "oracle over the blind run's" "$(awk -v a="$oracle" -v b="$blind_oracle" 'BEGIN { print a - b }')" 0.07
    at_least "3-click over the blind run's" "$(awk -v a="$click_3" -v b="$blind_click_3" 'BEGIN { print a - b }')" 0.10
done
echo "passed"
