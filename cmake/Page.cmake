# The web page: src/page and the libraries that it uses, packed by EmbedPage.cmake into one source file of the server.

# The libraries come from Debian packages (./dev installs them) and are not part of this tree.
set(LONGSHORE_NODE /usr/share/nodejs CACHE PATH "where node-marked and node-prismjs have their files")
set(page_libraries marked/lib/marked.esm.js prismjs/components/prism-core.min.js)
# Highlighted languages, every one after those that it builds on.
set(page_languages markup clike css javascript c cpp csharp java kotlin go rust swift python ruby perl lua bash powershell
    sql json yaml toml ini diff docker makefile cmake latex r julia scala haskell typescript jsx tsx glsl wasm nasm graphql protobuf
    regex http)

# longshore_page(target): adds the page's source file to the target.
function(longshore_page target)
  set(inputs)
  foreach(library ${page_libraries})
    list(APPEND inputs ${LONGSHORE_NODE}/${library})
  endforeach()
  list(REMOVE_ITEM page_languages)
  foreach(language ${page_languages})
    list(APPEND inputs ${LONGSHORE_NODE}/prismjs/components/prism-${language}.min.js)
  endforeach()
  foreach(package marked prismjs)
    list(APPEND inputs /usr/share/doc/node-${package}/copyright)
  endforeach()
  foreach(input ${inputs})
    if(NOT EXISTS ${input})
      message(FATAL_ERROR "the page needs ${input}: ./dev setup, or apt-get install node-marked node-prismjs")
    endif()
  endforeach()
  file(GLOB_RECURSE own CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/page/*)
  set(script ${CMAKE_SOURCE_DIR}/cmake/EmbedPage.cmake)
  set(folder ${CMAKE_BINARY_DIR}/page)
  string(REPLACE ";" "," languages "${page_languages}")
  add_custom_command(
    OUTPUT ${folder}/assets.cc
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR}/src/page -DNODE=${LONGSHORE_NODE} -DLANGUAGES=${languages} -DOUT=${folder}
            -P ${script}
    DEPENDS ${own} ${inputs} ${script}
    COMMENT "Packing the page" VERBATIM)
  target_sources(${target} PRIVATE ${folder}/assets.cc)
endfunction()
