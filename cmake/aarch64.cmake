# Toolchain: Debian's cross compiler, the libraries of scripts/aarch64_libraries, and qemu to run what is built.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(aarch64_root "${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-libraries/root")
set(CMAKE_FIND_ROOT_PATH "${aarch64_root}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} "${aarch64_root}")
set(ENV{PKG_CONFIG_LIBDIR} "${aarch64_root}/usr/lib/aarch64-linux-gnu/pkgconfig:${aarch64_root}/usr/share/pkgconfig")
set(CMAKE_CXX_FLAGS_INIT "-isystem ${aarch64_root}/usr/include/aarch64-linux-gnu")
# What shared libraries themselves need; a program finds all of them under qemu's -L.
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${aarch64_root}/usr/lib/aarch64-linux-gnu:${aarch64_root}/lib/aarch64-linux-gnu")
set(CMAKE_SKIP_BUILD_RPATH ON)

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;${aarch64_root})
set(RUST_TARGET aarch64-unknown-linux-gnu)
