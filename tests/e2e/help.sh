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

say "what the help of train says of stopping and of mpirun"
log=../train.log
samforge train --help >"$log"
says "A second INT ends it at once" "mpirun .*--bind-to none"
echo "passed"
