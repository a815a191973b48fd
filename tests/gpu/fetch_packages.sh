#!/bin/sh
# fetch_packages.sh FOLDER: the libraries that samforge is built with, and the tools, as a prefix in FOLDER, for a machine
# where none can be installed: FOLDER/usr/include, usr/lib, usr/bin. Runs where apt-get can download, needs no rights, and
# installs nothing. Then, on the other machine: PREFIX=FOLDER tests/gpu/run.sh. Both must be of one Debian or Ubuntu.
set -eu
[ $# = 1 ] || {
    echo "usage: $0 FOLDER"
    exit 2
}
command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
    echo "skipped: no apt-get here"
    exit 77
}
mkdir -p "$1/debs"
folder=$(cd "$1" && pwd)
wanted="pkgconf-bin libpkgconf3 ninja-build zlib1g-dev libpng-dev libturbojpeg0-dev libopenblas-pthread-dev libhdf5-dev
    libyaml-dev libjansson-dev libxxhash-dev libcmocka-dev"

# and what these need to run; of what every system with a compiler has, nothing: two C libraries in one process do not go
all=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances $wanted |
    grep '^[a-z0-9]' | sort -u |
    grep -vE '^(libc6.*|libc-.*|libcrypt.*|libgcc-.*|libstdc\+\+.*|libgomp.*|gcc-.*|g\+\+.*|cpp.*|binutils.*|linux-libc-dev|libtirpc.*|libnsl.*|rpcsvc-proto)$' |
    grep -vE '^(perl.*|libperl.*|python.*|libpython.*|debconf.*|cdebconf.*|dpkg.*|libdpkg.*|tar|sed|install-info|update-inetd|adduser|passwd|coreutils|bash|init-system-helpers|sensible-utils|ucf|openssl|ca-certificates|media-types|tzdata|libdb5.*|libgdbm.*|mpi-default.*|.*mpich.*|.*openmpi.*)$' |
    grep -vE -- '-(doc|data)$')
cd "$folder/debs"
for package in $all; do
    apt-get download "$package" >/dev/null 2>&1 || echo "left out: $package (virtual, or not to be had)"
done
for deb in *.deb; do dpkg -x "$deb" "$folder"; done

# only what compiling, linking and running need: such a folder may have to travel
cd "$folder"
rm -rf debs usr/share usr/sbin etc var sbin bin
find usr -name '*.a' -delete
find usr/bin -type f ! -name pkgconf ! -name ninja -delete
ln -sf pkgconf usr/bin/pkg-config
if [ -d lib ]; then # libraries that Debian keeps outside usr
    cp -a lib/. usr/lib/
    rm -rf lib
fi
du -sh "$folder"
