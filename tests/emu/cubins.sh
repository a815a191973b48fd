#!/bin/sh
# cubins.sh SASS_OPS: nvcc compiles every kernel, and the wrappers' test, for each architecture; the machine code has
# the instructions it was written for, and none that touch local memory. Needs no GPU; without nvcc it is skipped.
sass_ops=$1
cd "$(dirname "$0")/../.." || exit 2
nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc) || {
    echo "skipped: no nvcc here"
    exit 77
}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
bad=0

# cubin FILE +OPCODE...: what must be in it
cubin() {
    source=$1
    shift
    for arch in sm_80 sm_90; do
        echo "$source $arch"
        if "$nvcc" -std=c++17 -O3 -arch=$arch -cubin -Werror all-warnings -I. -o "$folder/cubin" "$source"; then
            "$sass_ops" "$@" "$folder/cubin" || bad=1
        else
            bad=1
        fi
    done
}

for source in kernels/cuda/*.cu; do
    case $source in
    */optimizer.cu) cubin "$source" +BAR +LDG +STG ;;
    */layernorm.cu) cubin "$source" +SHFL +BAR +LDG +STG ;;
    *) cubin "$source" +LDG ;;
    esac
done
cubin tests/emu/conform.cu +HMMA +LDSM +LDGSTS +SHFL +BAR
exit $bad
