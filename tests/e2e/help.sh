#!/bin/sh
# help.sh SAMFORGE SAME_STATE: the examples of samforge --help, pasted into a shell in their order, do what they say.
. "$(dirname "$0")/stage.sh"
mkdir "$stage/bin" "$stage/here"
ln -s "$(realpath "$samforge")" "$stage/bin/samforge"
ln -s "$(realpath "$(dirname "$0")/../../configs")" "$stage/here/configs"
PATH=$stage/bin:$PATH
cd "$stage/here"
samforge --help | sed -n '/^Examples/,/^$/s/^  //p' >../examples
[ "$(wc -l <../examples)" -ge 4 ] || die "samforge --help has no examples"
while read -r example; do
    say "$example"
    quietly example sh -ec "$example" </dev/null
done <../examples
grep -q 'mean IoU' "$log" || die "the last example scored nothing"

say "examples are of programs that setup builds; where another comes from is said"
for command in $(samforge --help | sed -n '/^Commands/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    samforge "$command" --help | sed -n '/^Examples/,/^$/s/^  //p' >../examples
    ! grep -vE '^(samforge|mpirun) ' ../examples || die "an example of $command is of no program of setup's"
done
log=../bench.log
samforge bench --help >"$log"
says "samforge_emu" "bootstrap.sh test builds"

say "what the help of train says of stopping and of mpirun"
log=../train.log
samforge train --help >"$log"
says "A second INT ends it at once" "mpirun .*--bind-to none"
echo "passed"
