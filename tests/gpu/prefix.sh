# . tests/gpu/prefix.sh, with PREFIX naming a folder that fetch_packages.sh made: CMake, the linker and the programs find
# their libraries there. Without PREFIX the system's are used.
if [ -n "${PREFIX:-}" ]; then
    PREFIX=$(cd "$PREFIX" && pwd)
    libraries=$(cd "$PREFIX/usr/lib" && ls -d *-linux-gnu*)
    libraries=$PREFIX/usr/lib/$libraries
    export PREFIX PATH="$PREFIX/usr/bin:$PATH"
    export PKG_CONFIG="$PREFIX/usr/bin/pkgconf" PKG_CONFIG_SYSROOT_DIR="$PREFIX"
    export PKG_CONFIG_LIBDIR="$libraries/openblas-pthread/pkgconfig:$libraries/pkgconfig:$PREFIX/usr/share/pkgconfig"
    export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
    export CMAKE_PREFIX_PATH="$PREFIX/usr"
    export LD_LIBRARY_PATH="$libraries/openblas-pthread:$libraries/hdf5/serial:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
