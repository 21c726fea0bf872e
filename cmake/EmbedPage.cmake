# cmake -DSOURCE= -DNODE= -DLANGUAGES=a,b -DOUT= -P EmbedPage.cmake: packs the page into OUT/assets.cc.
#
# Every file but index.html is served below page/VERSION/, where VERSION is a hash of all of them: browsers may keep them for
# ever. Each is there twice, as it is and compressed; the bytes come in by .incbin, as long literals are slow to compile.
cmake_minimum_required(VERSION 3.25)
set(stage ${OUT}/stage)
file(REMOVE_RECURSE ${stage})
file(COPY ${SOURCE}/ DESTINATION ${stage})

function(concatenate target)  # FILE...
  execute_process(COMMAND cat ${ARGN} OUTPUT_FILE ${stage}/${target} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

concatenate(js/marked.js ${NODE}/marked/lib/marked.esm.js)

# Prism's parts are scripts that share the variable Prism: together they are a module.
file(WRITE ${OUT}/prism-head.js "self.Prism = { manual: true };\n")
file(WRITE ${OUT}/prism-tail.js "\nexport default Prism;\n")
file(WRITE ${OUT}/newline "\n")
string(REPLACE "," ";" LANGUAGES "${LANGUAGES}")
set(parts ${OUT}/prism-head.js ${NODE}/prismjs/components/prism-core.min.js)
foreach(language ${LANGUAGES})
  list(APPEND parts ${OUT}/newline ${NODE}/prismjs/components/prism-${language}.min.js)
endforeach()
concatenate(js/prism.js ${parts} ${OUT}/prism-tail.js)

set(licences)
foreach(package marked prismjs)
  file(WRITE ${OUT}/${package}-title "\n==== ${package}, from Debian's node-${package} ====\n\n")
  list(APPEND licences ${OUT}/${package}-title /usr/share/doc/node-${package}/copyright)
endforeach()
concatenate(licences.txt ${licences})

file(GLOB_RECURSE files RELATIVE ${stage} ${stage}/*)
list(SORT files)
set(hashes)
foreach(file ${files})
  file(SHA256 ${stage}/${file} hash)
  string(APPEND hashes "${file} ${hash} ")
endforeach()
string(SHA256 version "${hashes}")
string(SUBSTRING ${version} 0 12 version)
# What boot.js asks for.
set(modules)
foreach(file ${files})
  if(file MATCHES "\\.js$" AND NOT file MATCHES "(prism|boot|theme)\\.js$")
    string(REGEX REPLACE "^js/" "" name ${file})
    list(APPEND modules ${name})
  endif()
endforeach()
string(REPLACE ";" " " modules "${modules}")
file(READ ${SOURCE}/index.html index)
string(REPLACE "@VERSION@" "${version}" index "${index}")
string(REPLACE "@MODULES@" "${modules}" index "${index}")
file(WRITE ${stage}/index.html "${index}")

set(types_html "text/html; charset=utf-8")
set(types_css "text/css; charset=utf-8")
set(types_js "text/javascript; charset=utf-8")
set(types_svg "image/svg+xml")
set(types_txt "text/plain; charset=utf-8")
set(blobs)
set(rows)
set(number 0)
foreach(file ${files})
  string(REGEX REPLACE ".*\\." "" extension ${file})
  if(NOT DEFINED types_${extension})
    message(FATAL_ERROR "src/page/${file}: EmbedPage.cmake knows no content type of .${extension}")
  endif()
  file(SHA256 ${stage}/${file} hash)
  string(SUBSTRING ${hash} 0 16 tag)
  execute_process(COMMAND gzip -9nc ${stage}/${file} OUTPUT_FILE ${stage}/${file}.gz COMMAND_ERROR_IS_FATAL ANY)
  foreach(form plain gzip)
    set(path ${stage}/${file})
    if(form STREQUAL "gzip")
      set(path ${path}.gz)
    endif()
    set(name longshore_page_${number}_${form})
    string(APPEND blobs "__asm__(\".section .rodata\\n${name}:\\n.incbin \\\"${path}\\\"\\n${name}_end:\\n.byte 0\\n.previous\\n\");\n"
                        "extern \"C\" const char ${name}[], ${name}_end[];\n")
    string(REPLACE "${name}:" ".global ${name}, ${name}_end\\n${name}:" blobs "${blobs}")
    set(${form} "{${name}, static_cast<size_t>(${name}_end - ${name})}")
  endforeach()
  set(url "page/${version}/${file}")
  if(file STREQUAL "index.html")
    set(url "")
  endif()
  string(APPEND rows "      {\"/${url}\", \"${types_${extension}}\", \"${tag}\", ${plain}, ${gzip}},\n")
  math(EXPR number "${number} + 1")
endforeach()
# .incbin is invisible to the compiler's cache: the version in the text stands for the bytes.
file(WRITE ${OUT}/assets.cc
"// Made by cmake/EmbedPage.cmake. Version ${version}.
#include \"server/page.h\"

${blobs}
namespace longshore::server {

std::span<const PageAsset> page_assets() {
  static const PageAsset assets[] = {
${rows}  };
  return assets;
}

}  // namespace longshore::server
")
