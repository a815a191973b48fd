#!/bin/sh
# cubins.sh SASS_OPS FILE.cu: nvcc compiles it for each architecture; the machine code has the instructions that the
# file was written for, and none that touch local memory. Needs no GPU; without nvcc it is skipped.
sass_ops=$1
source=$2
cd "$(dirname "$0")/../.." || exit 2
nvcc=$(command -v nvcc || command -v /usr/local/cuda/bin/nvcc) || {
    echo "skipped: no nvcc here"
    exit 77
}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
bad=0

# what must be in it
case $(basename "$source") in
attention.cu) opcodes='+HMMA +LDSM +LDGSTS +SHFL +BAR' ;;
conform.cu) opcodes='+HMMA +LDSM +LDGSTS +SHFL +BAR' ;;
linear.cu | conv.cu) opcodes='+HMMA +LDSM +LDGSTS +BAR' ;;
image_to_token.cu) opcodes='+HMMA +LDSM +LDGSTS +SHFL +BAR' ;;
layernorm.cu) opcodes='+SHFL +BAR +LDG +STG' ;;
token_to_image.cu) opcodes='+HMMA +LDSM +LDGSTS' ;;
optimizer.cu) opcodes='+BAR +LDG +STG' ;;
upscale.cu | upscale_bwd.cu) opcodes='+HMMA +LDSM +LDGSTS +SHFL' ;;
*) opcodes='+LDG' ;;
esac

for arch in sm_80 sm_90; do
    echo "$source $arch"
    "$nvcc" -std=c++17 -O3 -arch=$arch -cubin -Werror all-warnings -I. -o "$folder/cubin" "$source" &&
        "$sass_ops" $opcodes "$folder/cubin" || bad=1
done
exit $bad
