# Flags that every target shares.
add_library(longshore_flags INTERFACE)
target_include_directories(longshore_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(longshore_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Werror;-fno-omit-frame-pointer>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False positives inside std::string's operator+ (gcc bug 105651).
  target_compile_options(longshore_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
# The result of a sum must not depend on which code path the compiler contracted: FMA is used only where written.
target_compile_options(longshore_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)

if(LONGSHORE_SANITIZE STREQUAL "address")
  target_compile_options(longshore_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(longshore_flags INTERFACE -fsanitize=address,undefined)
elseif(LONGSHORE_SANITIZE STREQUAL "thread")
  # Asio's fences only order what its locks order too; the sanitizer does not model fences and GCC warns of each.
  target_compile_options(longshore_flags INTERFACE -fsanitize=thread $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  target_link_options(longshore_flags INTERFACE -fsanitize=thread)
elseif(LONGSHORE_SANITIZE)
  message(FATAL_ERROR "LONGSHORE_SANITIZE is '${LONGSHORE_SANITIZE}': use address, thread or nothing")
endif()

if(LONGSHORE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "LONGSHORE_FUZZ needs clang (libFuzzer)")
  endif()
  target_compile_options(longshore_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
  target_link_options(longshore_flags INTERFACE -fsanitize=address,undefined)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  # Without these two ccache takes nothing that uses a precompiled header from its store.
  # Nor does it know one clone's files for another's unless it is told where the tree begins.
  set(ccache_launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=true ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache_launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${ccache_launcher})
endif()
