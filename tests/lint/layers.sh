#!/bin/sh
# The floors: a folder includes only from the folders named beside it, and a library's header only
# where that library is wrapped. Reads the whole tree, so that a new file is held to it too.
cd "$(dirname "$0")/../.." || exit 2
bad=0

sources() {
    find "$@" -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cpp' \)
}

# report WHAT LINES: fails when there are any.
report() {
    [ -z "$2" ] && return
    echo "$1:"
    echo "$2" | sed 's/^/  /'
    bad=1
}

# layer FOLDER ALLOWED [EXCEPTION]: what its files include from the project.
layer() {
    report "$1 may include only $2" "$(sources "$1" | xargs -r grep -nE '^ *# *include *"' /dev/null |
        grep -vE ": *# *include *\"($2)/" | grep -vE "${3:-^\$}")"
}
layer kernels/base  'kernels/base'
layer kernels/ref   'kernels|kernels/ref'
# (kernels/cuda/device.h is where a kernel compiled by g++ meets the emulator that the tests run it on)
layer kernels       'kernels' '^kernels/cuda/device\.h:.*"tests/emu/'
layer data_pipeline 'kernels/base|data_pipeline'
layer cluster       'kernels/base|cluster'
layer trainer       'kernels|data_pipeline|cluster|trainer'
layer tests         'kernels|data_pipeline|cluster|trainer|tests'

# A backend's own headers stay inside it: others see it through its table.
report 'the headers of kernels/cpu belong to kernels/cpu, its tests, and the benchmark' "$(
    sources kernels data_pipeline cluster trainer |
        grep -vE '^(kernels/(cpu|ref|cuda)/|trainer/(cmd_)?bench)' |
        xargs -r grep -nE '^ *# *include *"kernels/(cpu|ref|cuda)/' /dev/null)"

# only HEADER ALLOWED: where a library is known by name.
only() {
    report "<$1> belongs in $2" "$(sources kernels data_pipeline cluster trainer |
        xargs -r grep -nE "^ *# *include *<($1)" /dev/null | grep -vE "^($2)")"
}
only 'mpi\.h'                         'cluster/mpi'
only 'nccl\.h|cuda|cublas|cudnn'      'kernels/cuda/'
only 'hdf5'                           'data_pipeline/shard|trainer/checkpoint'
only 'cblas|openblas'                 'kernels/cpu/'
only 'omp\.h'                         'kernels/cpu/|trainer/' # trainer: how many threads
only 'turbojpeg|jpeglib'              'data_pipeline/picture'
only 'png\.h'                         'data_pipeline/picture'
only 'zlib\.h'                        'data_pipeline/tar'
only 'yaml\.h'                        'trainer/yaml'

[ $bad = 0 ] && echo "layers: $(sources kernels data_pipeline cluster trainer tests | wc -l) files"
exit $bad
