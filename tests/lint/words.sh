#!/bin/sh
# Small things that no compiler minds: header guards named after their file, files without a name
# of their own, promises nobody keeps track of, prose on one line a sentence.
cd "$(dirname "$0")/../.." || exit 2
bad=0
complain() { echo "$*"; bad=1; }
code=$(find kernels data_pipeline cluster trainer tests -type f \( -name '*.[ch]' -o -name '*.cu' \) | sort)

for h in $(echo "$code" | grep '\.h$'); do
    guard=$(echo "$h" | tr 'a-z/.' 'A-Z__')
    [ "$(grep -cE "^#(ifndef|define) $guard\$" "$h")" = 2 ] || complain "$h: no guard $guard"
done
for f in $code; do
    case $(basename "$f" | sed 's/\..*//') in
    util | utils | common | helper | helpers | misc) complain "$f: a name that says nothing" ;;
    esac
done
promises=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' $code CMakeLists.txt tests/CMakeLists.txt bootstrap.sh)
[ -z "$promises" ] || complain "$promises"
fast=$(grep -nE -e '-(ffast-math|Ofast|funsafe-math-optimizations)' CMakeLists.txt tests/CMakeLists.txt)
[ -z "$fast" ] || complain "$fast: no fast-math"
[ $bad = 0 ] && echo "words: $(echo "$code" | wc -l) files"
exit $bad
