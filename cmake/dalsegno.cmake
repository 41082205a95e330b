# What every folder's CMakeLists.txt uses: one target per folder, its unit tests beside it.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}")

option(DALSEGNO_TESTS "Build the tests" ON)
option(DALSEGNO_BENCH "Build the kernel benchmarks" OFF)
option(DALSEGNO_PYTHON "Build the Python module, of the Python that has nanobind" OFF)
set(DALSEGNO_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread")

list(APPEND CMAKE_PROGRAM_PATH "$ENV{HOME}/.cargo/bin")  # where rustup puts cargo

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE}")
endif()

find_package(fmt 9.1 REQUIRED)
find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(CLI11 2.1 REQUIRED)
find_package(Threads REQUIRED)
if(DALSEGNO_TESTS)
  find_package(GTest 1.12 REQUIRED)
  include(GoogleTest)
  enable_testing()
endif()

add_library(dalsegno_flags INTERFACE)
target_include_directories(dalsegno_flags INTERFACE "${CMAKE_SOURCE_DIR}/include" "${CMAKE_SOURCE_DIR}/src")
# No -ffast-math family, and contraction off: the compiler must not change a bit.
target_compile_options(dalsegno_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                       -Wno-sign-conversion -Wnon-virtual-dtor -Wold-style-cast -Wcast-qual -Werror)
# g++ 12 sees an overflow inside fmt's constexpr parser, and overlaps inside std::string, that are not there.
target_compile_options(dalsegno_flags INTERFACE
                       "$<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow;-Wno-restrict>")
if(DALSEGNO_SANITIZE)
  target_compile_options(dalsegno_flags INTERFACE -fsanitize=${DALSEGNO_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(dalsegno_flags INTERFACE -fsanitize=${DALSEGNO_SANITIZE})
endif()

# dalsegno_unity(TARGET): under a sanitizer and for another CPU, several files are compiled as one: most of the time is reading
# headers.
# The release build reads each file as it is, so one that lacks an include fails there. Requires: names in anonymous
# namespaces differ within a folder. Not for files with flags of their own, such as a CPU level's.
function(dalsegno_unity target)
  if(DALSEGNO_SANITIZE OR CMAKE_CROSSCOMPILING)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    # Says of a type in an anonymous namespace that it is in a header; here it is not.
    target_compile_options(${target} PRIVATE "$<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>")
  endif()
endfunction()

# dalsegno_library(NAME DEPENDS targets...): a static library dalsegno_NAME from the folder's *.cpp,
# and a test program NAME_test from its *_test.cpp files.
function(dalsegno_library name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;TEST_DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  add_library(dalsegno_${name} STATIC ${sources})
  target_link_libraries(dalsegno_${name} PUBLIC dalsegno_flags ${ARG_DEPENDS})
  if(NOT name STREQUAL "kernels")
    dalsegno_unity(dalsegno_${name})
  endif()
  if(DALSEGNO_TESTS AND tests)
    dalsegno_test(${name}_test SOURCES ${tests} DEPENDS dalsegno_${name} ${ARG_TEST_DEPENDS})
  endif()
endfunction()

# dalsegno_plain(TARGET): under a sanitizer, compiled without optimising, which takes half as long; with little of it
# for another CPU. For programs whose time goes by elsewhere, in the libraries.
function(dalsegno_plain target)
  if(DALSEGNO_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  elseif(CMAKE_CROSSCOMPILING)
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

# The tests that start threads: TSan has nothing to say about the others.
set(DALSEGNO_THREADED_TESTS base_test backend_test runtime_test)
add_custom_target(threaded_tests)

# dalsegno_test(NAME SOURCES files... DEPENDS targets...): a GoogleTest program run by ctest.
# Tests find the reference data through the macro DALSEGNO_GOLDEN.
function(dalsegno_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE dalsegno_flags ${ARG_DEPENDS} GTest::gtest_main GTest::gmock Boost::json)
  target_compile_definitions(${name} PRIVATE DALSEGNO_GOLDEN="${CMAKE_SOURCE_DIR}/tests/golden"
                             DALSEGNO_SOURCE="${CMAKE_SOURCE_DIR}")
  dalsegno_plain(${name})
  if(NOT DALSEGNO_SANITIZE AND NOT CMAKE_CROSSCOMPILING)  # a third less to compile; what is tested stays as it is
    target_compile_options(${name} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
  endif()
  dalsegno_unity(${name})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 1800)  # under TSan, on a busy machine
  if(name IN_LIST DALSEGNO_THREADED_TESTS)
    set_tests_properties(${name} PROPERTIES LABELS threads)
    add_dependencies(threaded_tests ${name})
  endif()
endfunction()
