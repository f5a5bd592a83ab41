# A CMake toolchain: zig's clang builds for another machine than this one, against an older glibc.
#
#   cmake -DCMAKE_TOOLCHAIN_FILE=tools/wheels/zig.cmake -DZIG=PATH -DZIG_ARCHITECTURE=aarch64
#
# ZIG is the executable, which PyPI's package `ziglang` brings; ZIG_ARCHITECTURE x86_64 or aarch64.
# The C++ library is zig's libc++, a part of each module.

# manylinux2014, as TensorFlow 2.18 is; JAX asks for a newer one.
set(glibc 2.17)

# CMake's trials of the compiler are projects of their own, which include this file too.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG ZIG_ARCHITECTURE)

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${ZIG_ARCHITECTURE})
set(CMAKE_CXX_COMPILER ${ZIG} c++ -target ${ZIG_ARCHITECTURE}-linux-gnu.${glibc})

# nanobind 3.1 writes to stderr, whose header libc++ does not bring along and, for the stable ABI,
# neither does CPython.
set(CMAKE_CXX_FLAGS_INIT "-include stdio.h")

# What zig is not told to use it forbids to clang, and clang 18 to 20 has the 512-bit registers of
# AVX-512 as a feature of their own, which -mavx512f alone does not turn on again.
if(ZIG_ARCHITECTURE STREQUAL x86_64)
  string(APPEND CMAKE_CXX_FLAGS_INIT " -mevex512")
endif()

# Each tool is a command of the one executable.
set(CMAKE_AR ${ZIG})
set(CMAKE_RANLIB ${ZIG})
set(CMAKE_CXX_ARCHIVE_CREATE "<CMAKE_AR> ar qc <TARGET> <LINK_FLAGS> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_APPEND "<CMAKE_AR> ar q <TARGET> <LINK_FLAGS> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "<CMAKE_RANLIB> ranlib <TARGET>")

# Programs are this machine's; libraries, headers and packages are found where they are named.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
