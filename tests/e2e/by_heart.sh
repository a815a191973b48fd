#!/bin/sh
# Four images are learned by heart: the scores on them rise above answers that need no model, and above
# those of a model trained the same way that never sees an image. Minutes; by hand, or ctest -L slow.
. "$(dirname "$0")/stage.sh"
demo=$(dirname "$config")/../../configs/demo.yaml
quietly synth-few "$samforge" synth "$stage/few-tars" --images 4 --width 192 --height 160 --objects 5
quietly pack-few "$samforge" pack "$stage/few-tars" "$stage/few"

# learn NAME [setting…]; then score NAME KEY prints one mean IoU
learn() {
    learn_name=$1
    shift
    quietly "$learn_name" "$samforge" train "$demo" data.train="$stage/few" run.folder="$stage/$learn_name" \
        train.steps=500 optim.milestones='[400]' checkpoint.every=0 "$@"
    "$samforge" eval "$stage/$learn_name" "$stage/few" --json >"$stage/$learn_name.json" 2>"$stage/eval.log" || {
        cat "$stage/eval.log"
        die "eval $learn_name"
    }
}
score() {
    sed -n "s/^ *\"$2\": \([0-9.]*\).*/\1/p" "$stage/$1.json" | head -n 1
}

# above A B MARGIN WHAT
above() {
    say "$4: $1, to be above $2 + $3"
    awk -v a="$1" -v b="$2" -v m="$3" 'BEGIN { exit !(a != "" && b != "" && a > b + m) }' || die "$4"
}

learn sees
learn blind data.blind=true
above "$(score sees click_1)" "$(score sees disc)" 0.1 "one click over the disc"
above "$(score sees oracle)" "$(score sees disc_oracle)" 0.1 "best of three over the best of three discs"
above "$(score sees box)" "$(score sees ellipse)" 0.05 "box over the ellipse in it"
above "$(score sees click_1)" "$(score blind click_1)" 0.05 "one click over a model that sees nothing"
echo "passed"
