#!/bin/sh
# Every C file is as clang-format leaves it. Files that nobody added to git yet are left alone.
cd "$(dirname "$0")/../.." || exit 2
formatter=$(command -v clang-format-14 || command -v clang-format) || {
    echo "skipped: no clang-format here (apt-get install clang-format)"
    exit 77
}
if ! files=$(git ls-files -- '*.c' '*.h' 2>/dev/null); then
    files=$(find kernels data_pipeline cluster trainer tests -type f -name '*.[ch]')
fi
[ -n "$files" ] || { echo "no C files found"; exit 2; }
files=$(for f in $files; do [ -f "$f" ] && echo "$f"; done) # removed ones may still be tracked

# one process for all files; its first complaint about each is enough
complaints=$("$formatter" --dry-run -Werror $files 2>&1) && {
    echo "format: $(echo "$files" | wc -l) files"
    exit 0
}
echo "$complaints" | grep -E '^[^ ]+:[0-9]+:' | sort -t: -k1,1 -u | sed 's/code should be.*/not as formatted/'
echo "run: $formatter -i on these"
exit 1
