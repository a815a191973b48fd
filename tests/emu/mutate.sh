#!/bin/sh
# mutate.sh SETTINGS SOURCE [WHICH [JOBS]]: breaks one token of SOURCE (a file of kernels/cuda) at a time, and asks
# the tests of the ops that are compiled from it: fast under two schedules, and checked in order, until one notices.
# Prints a table and what survived.
# WHICH: a number n, each n-th mutant; `explained`, those that are; /REGEX, those whose line of `mutate list` it
# matches.
# A survivor must be explained in tests/emu/mutants.explained; one that is not fails the run, and so does an
# explanation of a mutant that does not exist or does not survive. SETTINGS is written by CMake:
# build/tests/emu/mutate.settings, in a build whose targets emu, cuda_checked, cuda_fast, check and mutate are made.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# ---- one mutant: mutate.sh --one WORK NUMBER ----------------------------------------------------------------------

# test_of UNIT: the noun of its test; a backward pass in a file of its own has its forward's
test_of() {
    case $1 in
    */accumulate.cu) echo verbs ;;
    *) basename "$1" .cu | sed 's/_bwd$//' ;;
    esac
}

# build KIND UNIT: the object of a .cu with the mutated file in place of its own, and the test with it
build() {
    case $1 in checked) options=$checked_options ;; fast) options=$fast_options ;; esac
    object=$work/$number/$1.o
    file=$top/$2
    [ "$2" = "$source" ] && file=$work/$number/$2
    $cxx -x c++ -include "$work/$1.h" "-I$work/$number" $compile_options $options -c "$file" -o "$object" &&
        $cxx -no-pie "$object" "$work/$1_$(basename "$2" .cu).o" $libraries -o "$work/$number/$1"
}

# ask KIND UNIT SEED: the verdict of the test built last
ask() {
    EMU_SEED=$3 "$mutate" run "$(cat "$work/$1_$(basename "$2" .cu).limit")" "$work/$number/$1" emu | cut -d' ' -f1
}

# try KIND SEEDS: the verdict of all units' tests, until one is not `survived`
try() {
    for unit in $units; do
        build "$1" "$unit" 2>"$work/$number/complaints" || continue
        for seed in $2; do
            verdict=$(ask "$1" "$unit" "$seed")
            [ "$verdict" = survived ] || return
        done
    done
}

# a wait that is missing shows in the checked build, wrong numbers sooner in the fast one
one() {
    verdict=uncompiled
    if grep -q "^$number .*=> (void)0@" "$work/list"; then
        try checked 0
        [ "$verdict" != survived ] || try fast "1 2"
    else
        try fast "1 2"
        [ "$verdict" != survived ] || try checked 0
    fi
}

if [ "$1" = --one ]; then
    work=$2
    number=$3
    . "$work/settings"
    mkdir -p "$work/$number/kernels/cuda"
    "$mutate" apply "$top/$source" "$number" >"$work/$number/$source" && one
    echo "$number $verdict" >"$work/verdict.$number"
    rm -rf "${work:?}/$number"
    exit 0
fi

# ---- all of them --------------------------------------------------------------------------------------------------

[ -f "$1" ] && [ -n "$2" ] || {
    echo "usage: mutate.sh SETTINGS SOURCE [NUMBER | explained | /REGEX [JOBS]]" >&2
    exit 2
}
settings=$1
source=$2
which=${3:-1}
jobs=${4:-2}
. "$settings"
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 2' INT TERM

# units_of FILE: a .cu itself, unless it calls a library; of a header each .cu that includes it, by way of others too
units_of() {
    case $1 in
    */library_*) ;;
    *.cu) echo "$1" ;;
    *) (cd "$top" && grep -lF "#include \"$1\"" kernels/cuda/*) | while read -r includer; do
        units_of "$includer"
    done | sort -u ;;
    esac
}

# prepare KIND UNIT: all of the unit's test but the unit itself, in one object, and how long the test may take
prepare() {
    case $1 in
    checked) objects=$checked_objects ;;
    fast) objects=$fast_objects ;;
    esac
    noun=$(basename "$2" .cu)
    rest=
    for object in $objects; do
        case $object in
        */"$noun.cu.o") own=$object ;;
        *) rest="$rest $object" ;;
        esac
    done
    $cc -DTESTS_ON_EMU "-I$top" -std=gnu11 -O2 -c "$top/tests/kernels/test_$(test_of "$2").c" -o "$work/test.o" &&
        $cc "-I$top" -std=gnu11 -O2 -c "$top/tests/emu/ops_emu.c" -o "$work/ops_emu.o" &&
        ld -r "$work/test.o" "$work/ops_emu.o" $rest $emu_objects $archives -o "$work/$1_$noun.o" &&
        strip --strip-debug "$work/$1_$noun.o" &&
        $cxx -no-pie "$own" "$work/$1_$noun.o" $libraries -o "$work/sound" || return 1
    set -- "$1" $("$mutate" run 600 "$work/sound" emu)
    [ "$2" = survived ] || {
        echo "test_$noun, $1: $2, though nothing is mutated"
        return 1
    }
    echo $((1 + 2 * $3)) >"$work/$1_$noun.limit"
}

cat "${EXPLAINED:-$top/tests/emu/mutants.explained}" >"$work/explained" || exit 2
"$mutate" list "$top/$source" >"$work/list" || exit 2
[ -s "$work/list" ] || {
    echo "$source: no device code"
    exit 0
}
units=$(units_of "$source" | tr '\n' ' ')
[ -n "$units" ] || {
    echo "$source: no kernel is compiled from it"
    exit 2
}
{
    cat "$settings"
    echo "source='$source' units='$units'"
} >"$work/settings"
# what every kernel includes and no mutant changes, compiled once
for kind in checked fast; do
    case $kind in checked) options=$checked_options ;; fast) options=$fast_options ;; esac
    for header in kernels/base/status.h kernels/base/stream.h tests/emu/device_memory.h tests/emu/emu.h; do
        echo "#include \"$header\""
    done >"$work/$kind.h"
    $cxx $compile_options $options -x c++-header "$work/$kind.h" -o "$work/$kind.h.gch" || exit 2
    for unit in $units; do prepare $kind "$unit" || exit 2; done
done
# the quickest test first
units=$(for unit in $units; do echo "$(cat "$work/fast_$(basename "$unit" .cu).limit") $unit"; done |
    sort -n | cut -d' ' -f2 | tr '\n' ' ')
echo "units='$units'" >>"$work/settings"

WHICH=$which awk -v source="$source" '
    BEGIN { which = ENVIRON["WHICH"] }
    file == 1 { sub(/ -- .*/, ""); explained[$0] = 1; next }
    { number = $1; sub(/^[0-9]+ [0-9]+ /, "") }
    which == "explained" { if (source " " $0 in explained) print number; next }
    which ~ "^/" ? $0 ~ substr(which, 2) : number % which == 0 { print number }
    ' file=1 "$work/explained" file=2 "$work/list" |
    xargs -r -P "$jobs" -n 1 "$0" --one "$work"
cat "$work"/verdict.* 2>/dev/null | sort -n >"$work/verdicts"

awk -v source="$source" '
    file == 1 && /^[^#]/ { # the explanations, of this source
        at = index($0, " -- ")
        if (index($0, source " ") != 1) next
        if (at == 0) { print "no reason: " $0; bad = 1; next }
        reason[substr($0, 1, at - 1)] = substr($0, at + 4)
    }
    file == 2 { # the mutants
        number = $1; line[number] = $2
        sub(/^[0-9]+ [0-9]+ /, "")
        name[number] = source " " $0
        exists[name[number]] = 1
    }
    file == 3 { # what became of them
        n[$2]++; all++
        if ($2 == "survived") {
            survived[name[$1]] = 1
            explained = name[$1] in reason
            n_explained += explained
            if (explained) next
            print source ":" line[$1] ": survived: " name[$1]
            bad = 1
        } else if (name[$1] in reason) {
            print "explained, but now " $2 ": " name[$1]
            bad = 1
        }
    }
    END {
        for (key in reason) if (!(key in exists)) { print "explained, but no such mutant: " key; bad = 1 }
        if (all == 0) { print source ": no mutant was tried"; bad = 1 }
        printf "%s: %d mutants tried: %d by report, %d by numbers, %d by fault, %d by time; ", source, all,
            n["report"], n["numbers"], n["fault"], n["time"]
        printf "%d do not compile; %d survived, %d of them explained\n", n["uncompiled"], n["survived"], n_explained
        exit bad
    }' file=1 "$work/explained" file=2 "$work/list" file=3 "$work/verdicts"
