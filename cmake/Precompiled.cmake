# Precompiled headers: most of a cold build is parsing the same library headers again. Three sets, each compiled once:
# `library` for the folders of src and bench, `cli` with the flag parser, `tests` (tests/CMakeLists.txt) with the test
# framework.
#
# A source file still includes what it uses: the fuzz preset and ./dev tidy build without the sets and find what is
# missing. The kernels' *.isa.cc take none, as their flags differ.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT LONGSHORE_FUZZ)
  set(pch_default ON)
else()
  set(pch_default OFF)
endif()
option(LONGSHORE_PCH "precompile the headers of libraries" ${pch_default})

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # ccache follows a precompiled header through the preprocessor's output. The warnings are false positives inside
  # std::string that gcc otherwise keeps to itself: with a precompiled header it forgets which headers are the system's.
  set(pch_options -fpch-preprocess -Wno-array-bounds -Wno-stringop-overread -Wno-stringop-overflow)
endif()

set(library_headers
    <algorithm> <array> <cmath> <cstdint> <functional> <map> <memory> <optional> <span> <string> <string_view> <vector>
    <fmt/format.h> <nlohmann/json.hpp> <tl/expected.hpp>)

# longshore_precompile(target set): the target's sources start with the headers of that set.
function(longshore_precompile target set)
  if(LONGSHORE_PCH)
    target_precompile_headers(${target} REUSE_FROM longshore_pch_${set})
    target_compile_options(${target} PRIVATE ${pch_options})
  endif()
endfunction()

# longshore_precompiled_set(name [HEADERS <header>...] [DEPS lib...]): a set beyond library_headers; DEPS bring the
# definitions that its users have, without which the compiler refuses it.
function(longshore_precompiled_set set)
  cmake_parse_arguments(ARG "" "" "HEADERS;DEPS" ${ARGN})
  if(LONGSHORE_PCH)
    add_library(longshore_pch_${set} OBJECT ${CMAKE_SOURCE_DIR}/cmake/precompiled.cc)
    target_link_libraries(longshore_pch_${set} PRIVATE longshore_flags fmt::fmt ${ARG_DEPS})
    target_compile_options(longshore_pch_${set} PRIVATE ${pch_options})
    target_precompile_headers(longshore_pch_${set} PRIVATE ${library_headers} ${ARG_HEADERS})
  endif()
endfunction()

longshore_precompiled_set(library)
longshore_precompiled_set(cli HEADERS <CLI/CLI.hpp>)
