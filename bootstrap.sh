#!/bin/sh
# Sets samforge up on a fresh Debian 12 and does one thing with it: see ./bootstrap.sh --help.
# Packages that are there are not asked for again, so a second run needs neither root nor a network.
set -eu
cd "$(dirname "$0")"

core_packages="build-essential cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-dev
    libpng-dev zlib1g-dev libturbojpeg0-dev libopenblas-dev libyaml-dev libjansson-dev libxxhash-dev
    libcmocka-dev"
test_packages="clang libclang-rt-14-dev clang-format"

usage() {
    cat <<'END'
Usage: ./bootstrap.sh setup|demo|test|asan

  setup   install the packages that are missing, configure, build build/samforge
  demo    setup; then a synthetic set, training on two ranks, scores beside an untrained model's
          and beside answers that need no model, and pictures; all of it under runs/
  test    setup; then every quick test, and the unit tests once more under AddressSanitizer and
          UndefinedBehaviorSanitizer
  asan    only that second half, in build-asan/

Installing packages needs root or sudo. Every verb may be given again and again.
END
}

say() { printf '\n== %s\n' "$*"; }
die() {
    echo "bootstrap.sh: $*" >&2
    exit 1
}

# ---- packages -----------------------------------------------------------------------------------
missing_packages() {
    for p in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) || state=none
        [ "$state" = installed ] || printf '%s ' "$p"
    done
}

apt_get() {
    if [ "$(id -u)" = 0 ]; then
        root=
    else
        root=sudo
    fi
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=60 "$@" </dev/null
}

# Says what went wrong and returns 1 when something is still missing.
install_packages() {
    command -v dpkg-query >/dev/null || {
        echo "this is no Debian; what has to be there by other means: $*"
        return 1
    }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || {
        echo "neither root nor sudo to install what is missing: $missing"
        return 1
    }
    say "installing $missing"
    apt_get update || {
        sleep 5
        apt_get update
    } || {
        echo "apt-get update failed twice: is there a network?"
        return 1
    }
    # shellcheck disable=SC2086 # a list of words
    apt_get install -y --no-install-recommends $missing >/dev/null || {
        echo "apt-get install failed; its messages are above"
        return 1
    }
}

# ---- building -----------------------------------------------------------------------------------
# As many compilers as there are cores, as long as each has half a gigabyte.
compilers() {
    n=$(nproc)
    fit=$(awk '/MemAvailable/ { print int($2 / 500000) }' /proc/meminfo 2>/dev/null || echo "$n")
    [ "${fit:-0}" -ge 1 ] || fit=1
    if [ "$n" -le "$fit" ]; then echo "$n"; else echo "$fit"; fi
}

# build FOLDER TARGET [cmake options…]
build() {
    folder=$1 target=$2
    shift 2
    say "building $folder/ ($target)"
    # a folder that came from elsewhere is made anew
    if [ -d "$folder" ] &&
        ! grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$(pwd -P)" "$folder/CMakeCache.txt"; then
        rm -rf "$folder"
    fi
    mkdir -p "$folder"
    # each time, since packages may have come since the last one
    cmake -S . -B "$folder" -G Ninja "$@" >"$folder/configure.log" 2>&1 || {
        cat "$folder/configure.log"
        die "configuring failed"
    }
    grep -- '-- samforge' "$folder/configure.log" || true
    ninja -C "$folder" -j "$(compilers)" --quiet "$target" || die "building failed"
}

setup() {
    # shellcheck disable=SC2086
    install_packages $core_packages || die "cannot go on without these packages"
    build build samforge
}

# ---- demo ---------------------------------------------------------------------------------------
# Lines of a training run: steps in one line on a terminal, every hundredth elsewhere.
progress() {
    clear=
    [ ! -t 1 ] || clear=$(printf '\r\033[K')
    while IFS= read -r line; do
        step=${line#* step:}
        if [ "$step" = "$line" ]; then
            printf '%s%s\n' "$clear" "$line"
        elif [ -n "$clear" ]; then
            printf '%s%.78s' "$clear" "step$step"
        elif [ $((${step%%loss*} % 100)) = 0 ]; then
            echo "$line"
        fi
    done
    [ -z "$clear" ] || echo
}

# The last finished demo stays to be looked at until the next is finished too.
keep_finished() {
    [ -f $run/scores.txt ] || return 0
    rm -rf $run.before
    mv $run $run.before
}

# What this very program made from these very settings is used again; anything else is made anew.
demo() {
    setup
    samforge=build/samforge run=runs/demo data=runs/demo-data
    key=$(cat bootstrap.sh configs/micro.yaml configs/demo.yaml $samforge | cksum)
    mkdir -p runs
    if [ "$(cat $data/key 2>/dev/null)" != "$key" ] || ! $samforge inspect $data/train --verify >/dev/null 2>&1; then
        keep_finished
        rm -rf $run $data
        size="--width 288 --height 240 --objects 5"
        say "drawing a synthetic set: 800 images to train on, 40 others to be judged by"
        # shellcheck disable=SC2086
        $samforge synth $data/train-tars --images 800 $size
        # shellcheck disable=SC2086
        $samforge synth $data/val-tars --images 40 --first-id 1000000 $size
        say "packing it"
        $samforge pack $data/train-tars $data/train
        $samforge pack $data/val-tars $data/val
        echo "$key" >$data/key
    fi

    # a demo that was interrupted goes on; one that was finished begins again
    keep_finished
    # on the CPU, also where there is a GPU: two ranks would need two
    say "training on two ranks"
    {
        $samforge launch -n 2 train configs/demo.yaml data.train=$data/train run.device=cpu 2>&1 ||
            echo "the training ended with code $?" | tee $data/failed
    } | progress
    [ ! -f $data/failed ] || {
        rm $data/failed
        exit 1
    }
    say "scoring it on images it has not seen"
    # three clicks: as many as its three rounds of training ever saw
    $samforge launch -n 2 eval $run $data/val --device cpu --clicks 3 --untrained --train $data/train \
        --overlays $run/pictures >$run/scores.tmp
    mv $run/scores.tmp $run/scores.txt
    cat $run/scores.txt
    say "done"
    echo "the run:      $run (metrics.jsonl, checkpoints/)"
    echo "the scores:   $run/scores.txt"
    echo "the pictures: $run/pictures/*.png: image, predicted masks with clicks, truth"
}

# ---- tests --------------------------------------------------------------------------------------
setup_tests() {
    # shellcheck disable=SC2086
    install_packages $core_packages || die "cannot go on without these packages"
    # shellcheck disable=SC2086
    install_packages $test_packages || echo "going on; tests that need them are skipped"
}

# suite FOLDER [ctest options…]: runs it, and keeps what it says in FOLDER/ctest.log
suite() {
    folder=$1
    shift
    say "testing $folder/"
    {
        ctest --test-dir "$folder" -j 2 --output-on-failure "$@" </dev/null 2>&1 ||
            echo "ctest ended with code $?"
    } | tee "$folder/ctest.log"
}

# closing FOLDER…: what all suites came to; returns 1 when anything failed
closing() {
    logs=$(for folder in "$@"; do echo "$folder/ctest.log"; done)
    # shellcheck disable=SC2086
    results=$(cat $logs | grep -E '^ *[0-9]+/[0-9]+ Test +#[0-9]+: ' || true)
    n_all=$(printf '%s' "$results" | grep -c . || true)
    n_passed=$(printf '%s' "$results" | grep -cE ' Passed +[0-9.]+ sec' || true)
    n_skipped=$(printf '%s' "$results" | grep -cF '***Skipped' || true)
    n_failed=$((n_all - n_passed - n_skipped))
    say "$n_passed passed, $n_failed failed, $n_skipped skipped"
    # shellcheck disable=SC2086
    [ $n_failed = 0 ] && [ "$n_passed" -gt 0 ] && ! grep -q '^ctest ended with code' $logs
}

asan() {
    build build-asan all -DSANITIZE=ON -DWITH_FUZZ=OFF
    suite build-asan -L unit
}

case ${1:-} in
setup) setup ;;
demo) demo ;;
test)
    setup_tests
    build build all
    suite build -LE slow
    asan
    closing build build-asan
    ;;
asan)
    setup_tests
    asan
    closing build-asan
    ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
