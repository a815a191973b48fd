#!/bin/sh
# mutate.sh SETTINGS SOURCE [WHICH [JOBS]]: breaks one token of SOURCE (a file of kernels/cuda) at a time, and asks
# the tests of the ops that are compiled from it, fast under two schedules and checked in order, until one notices.
# Prints a table and what survived.
# WHICH: a number n, each n-th mutant; `explained`, those that are; /REGEX, those whose line of `mutate list` it
# matches.
# A survivor must be explained in tests/emu/mutants.explained; one that is not fails the run, and so does an
# explanation of a mutant that does not exist or does not survive. SETTINGS is written by CMake:
# build/tests/emu/mutate.settings, in a build whose targets emu, cuda_checked, cuda_fast, check, mutate and verdict are made.
#
# All mutants are compiled into one program, which is told at run time which to be; only where the compiler wants a
# constant, a mutant is a program of its own. Tests begin with their small cases, so that a few seconds of them find
# most; all of a test is run for what those did not notice. Mutants that are explained are in force together, every
# eighth of them, since nothing should come of any; one by one only where something does.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# ---- one mutant: mutate.sh --one WORK NUMBER ----------------------------------------------------------------------

# test_of UNIT: the noun of its test; a backward pass in a file of its own has its forward's
test_of() {
    case $1 in
    */accumulate.cu) echo verbs ;;
    *) basename "$1" .cu | sed 's/_bwd$//' ;;
    esac
}

# build KIND UNIT: the test with the object of a .cu that has the file in $work/$program in place of its own, once
build() {
    [ ! -x "$work/$program/$1_$(basename "$2" .cu)" ] || return 0
    case $1 in checked) options=$checked_options ;; fast) options=$fast_options ;; esac
    into=$work/$program
    file=$top/$2
    [ "$2" != "$source" ] || file=$into/$2
    $cxx -x c++ -include "$work/$1.h" "-I$into" $compile_options $options -c "$file" -o "$into/$1.o" &&
        $cxx -no-pie "$into/$1.o" "$work/$1_$(basename "$2" .cu).o" $libraries -o "$into/$1_$(basename "$2" .cu)"
}

# ask KIND UNIT SEED SECONDS: the verdict of the test built last, or of that with all mutants in it and those of
# $in_force; `time`, where there is none within that many seconds, or all that the test may take
ask() {
    limit=$4
    [ -n "$limit" ] || limit=$(cat "$work/$1_$(basename "$2" .cu).limit")
    EMU_SEED=$3 EMU_MUTANTS=$in_force "$verdict_of" "$limit" "$work/$program/$1_$(basename "$2" .cu)" emu | cut -d' ' -f1
}

# try KIND SEEDS [SECONDS]: the verdict of all units' tests, until one is noticed; that none is in so many seconds
# says nothing
try() {
    for unit in $units; do
        verdict=uncompiled
        build "$1" "$unit" 2>"$work/$program/complaints" || return 1
        for seed in $2; do
            verdict=$(ask "$1" "$unit" "$seed" "$3")
            [ -z "$3" ] || [ "$verdict" != time ] || verdict=survived
            [ "$verdict" = survived ] || return 1
        done
    done
}

whole() {
    try fast "1 2" && try checked 0
}

# a wait that is missing shows in the checked build, wrong numbers sooner in the fast one
by_parts() {
    if [ -n "$waits" ]; then
        try checked 0 $few_checked && try fast 1 $few_fast
    else
        try fast 1 $few_fast && try checked 0 $few_checked
    fi && whole
}

# The verdict of mutant $number.
one() {
    program=all in_force=$number
    waits=$(grep -E "^$number .*(__sync|barrier|async_|acquire)" "$work/list")
    if grep -qx "$number" "$work/left_out"; then
        program=$number
        mkdir -p "$work/$number/kernels/cuda"
        "$mutate" apply "$top/$source" "$number" >"$work/$number/$source" || exit 2
    fi
    by_parts
}

if [ "$1" = --one ]; then
    work=$2
    number=$3
    . "$work/settings"
    one
    echo "$number $verdict" >"$work/verdict.$number"
    [ ! -d "$work/$number" ] || rm -rf "${work:?}/$number"
    exit 0
fi

# mutate.sh --together WORK FILE: the mutants that it lists; no verdict, where something comes of them
if [ "$1" = --together ]; then
    work=$2
    . "$work/settings"
    program=all in_force=$(tr '\n' ',' <"$3")
    ! whole || while read -r number; do echo "$number survived" >"$work/verdict.$number"; done <"$3"
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
        */"$noun.cu.o") ;;
        *) rest="$rest $object" ;;
        esac
    done
    $cc -DTESTS_ON_EMU "-I$top" -std=gnu11 -O2 -c "$top/tests/kernels/test_$(test_of "$2").c" -o "$work/test.o" &&
        ld -r "$work/test.o" "$work/ops_emu.o" "$work/mutant.o" $rest $emu_objects $archives -o "$work/$1_$noun.o" &&
        strip --strip-debug "$work/$1_$noun.o" &&
        build "$1" "$2" || return 1
    set -- "$1" $("$verdict_of" 1000 "$work/all/$1_$noun" emu)
    [ "$2" = survived ] || {
        echo "test_$noun, $1: $2, though nothing is mutated"
        return 1
    }
    echo $((1 + 2 * $3)) >"$work/$1_$noun.limit"
}

# All mutants go into one source, but those where the compiler wants a constant: what it complains about is left out,
# and compiled by itself.
put_all() {
    mkdir -p "$work/all/kernels/cuda"
    "$mutate" constants "$top/$source" >"$work/left_out" || return 1
    for _ in $(seq 40); do
        "$mutate" switch "$top/$source" $(cat "$work/left_out") >"$work/all/$source" || return 1
        for unit in $units; do
            file=$top/$unit
            [ "$unit" = "$source" ] && file=$work/all/$unit
            $cxx -x c++ -fsyntax-only -fmax-errors=0 -include "$work/fast.h" "-I$work/all" $compile_options \
                $fast_options "$file" 2>&1
        done | grep "^$work/all/$source:.*: error:" >"$work/complaints" || return 0
        # the mutants of the lines that are complained about; else those around the first such line
        sed -E 's/.*mutant_is\(([0-9]+)\).*/\1/; t; s/.*//' "$work/all/$source" >"$work/mutant_of_line"
        awk -F: '
            file == 1 { at[FNR] = $0; n = FNR; next }
            at[$2] != "" { print at[$2]; exact = 1; next }
            first == 0 { first = $2 }
            END {
                if (exact || first == 0) exit
                for (before = first; before > 1 && at[before] == ""; before--);
                for (behind = first; behind < n && at[behind] == ""; behind++);
                print at[before] "\n" at[behind]
            }' file=1 "$work/mutant_of_line" file=2 "$work/complaints" | sort -nu | grep . >"$work/blamed"
        [ -s "$work/blamed" ] || break
        cat "$work/blamed" >>"$work/left_out"
    done
    echo "$source: cannot be compiled with its mutants:"
    head -5 "$work/complaints"
    return 1
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
    echo "source='$source' units='$units' few_fast=5 few_checked=20"
} >"$work/settings"
# what is in every test, and what every kernel includes and no mutant changes, compiled once
for object in ops_emu mutant; do
    $cc "-I$top" -std=gnu11 -O2 -c "$top/tests/emu/$object.c" -o "$work/$object.o" || exit 2
done
for kind in checked fast; do
    case $kind in checked) options=$checked_options ;; fast) options=$fast_options ;; esac
    for header in kernels/base/status.h kernels/base/stream.h tests/emu/device_memory.h tests/emu/emu.h \
        tests/emu/mutant.h; do
        echo "#include \"$header\""
    done >"$work/$kind.h"
    $cxx $compile_options $options -x c++-header "$work/$kind.h" -o "$work/$kind.h.gch" || exit 2
done
put_all || exit 2
program=all
for kind in checked fast; do
    for unit in $units; do prepare $kind "$unit" || exit 2; done
done
# the quickest test first
units=$(for unit in $units; do echo "$(cat "$work/fast_$(basename "$unit" .cu).limit") $unit"; done |
    sort -n | cut -d' ' -f2 | tr '\n' ' ')
echo "units='$units'" >>"$work/settings"

# those that are explained and chosen at run time together, by eighths
awk -v source="$source" '
    file == 1 { left_out[$1] = 1; next }
    file == 2 { sub(/ -- .*/, ""); explained[$0] = 1; next }
    { number = $1; sub(/^[0-9]+ [0-9]+ /, "") }
    source " " $0 in explained && !(number in left_out) { print number > "'"$work"'/together." n++ % 8 }
    ' file=1 "$work/left_out" file=2 "$work/explained" file=3 "$work/list"
case $which in
1 | explained) ls "$work"/together.* 2>/dev/null | xargs -r -P "$jobs" -n 1 "$0" --together "$work" ;;
esac
WHICH=$which awk -v source="$source" '
    BEGIN { which = ENVIRON["WHICH"] }
    file == 1 { sub(/ -- .*/, ""); explained[$0] = 1; next }
    { number = $1; sub(/^[0-9]+ [0-9]+ /, "") }
    which == "explained" { if (source " " $0 in explained) print number; next }
    which ~ "^/" ? $0 ~ substr(which, 2) : number % which == 0 { print number }
    ' file=1 "$work/explained" file=2 "$work/list" |
    while read -r number; do [ -f "$work/verdict.$number" ] || echo "$number"; done |
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
