#!/bin/sh
# What the documents speak of exists, and what exists is spoken of: every path named in README and
# docs, every document named in code, every subcommand, every op, every exit code.
cd "$(dirname "$0")/../.." || exit 2
bad=0
complain() { echo "$*"; bad=1; }
documents="README.md configs/README.md $(find docs -name '*.md' | sort)"

# [text](path), relative to the document
for d in $documents; do
    [ -f "$d" ] || { complain "$d is missing"; continue; }
    for target in $(grep -oE '\]\([^)]+\)' "$d" | sed 's/^](//; s/)$//; s/#.*//'); do
        case $target in
        http://* | https://* | '') continue ;;
        esac
        [ -e "$(dirname "$d")/$target" ] || complain "$d: no such file: $target"
    done
    # `folder/file`, as seen from the top; * stands for some file, NAME for any
    for path in $(grep -oE '`[^`]+`' "$d" | tr -d '`' |
        grep -oE '^(\./)?(kernels|data_pipeline|cluster|trainer|configs|tests|docs)/[A-Za-z0-9_./*-]*$'); do
        case $path in
        *NAME*) continue ;; # a pattern, not a path
        esac
        set -- $path # expands *
        [ -e "$1" ] || complain "$d: no such path: $path"
    done
done

# documents named anywhere in the code
for target in $(find kernels data_pipeline cluster trainer tests configs CMakeLists.txt bootstrap.sh \
    -type f ! -path 'tests/lint/*' -exec grep -ohE 'docs/[a-z_]+\.md' {} + | sort -u); do
    [ -f "$target" ] || complain "named in the code, but missing: $target"
done

# every document is reachable from the overview
for d in docs/*.md; do
    [ "$d" = docs/overview.md ] || grep -q "($(basename "$d"))" docs/overview.md ||
        complain "docs/overview.md does not link $d"
done

# lists that the code holds once, and documents repeat
for command in $(grep -oE '^ *X\([a-z]+, "' trainer/command.h | sed 's/.*(//; s/,.*//'); do
    grep -q "\`samforge $command" README.md || complain "README.md does not name samforge $command"
done
for op in $(sed -n '/define OPS_LIST/,/^$/p' kernels/ops.h | grep -oE 'X\([a-z0-9_]+\)' |
    sed 's/X(//; s/)//; s/_fwd$//; s/_bwd$//' | sort -u); do
    grep -q "\`$op\`" docs/kernels.md || complain "docs/kernels.md has no row for $op"
done
for code in $(sed -n '/define STATUS_LIST/,/^$/p' kernels/base/status.h |
    grep -oE ', [0-9]+\)' | tr -dc '0-9\n' | sort -un); do
    grep -qE "^\| $code \|" README.md || complain "README.md does not explain exit code $code"
done

[ $bad = 0 ] && echo "links: $(echo "$documents" | wc -w) documents"
exit $bad
