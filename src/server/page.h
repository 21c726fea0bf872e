// The web page: files of src/page that the build put into the program, and how they are served.
//
// Threading: any thread; immutable.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "server/http.h"

namespace longshore::server {

struct PageAsset {
  std::string_view path;  // "/" or "/page/VERSION/..."
  std::string_view content_type;
  std::string_view hash;  // of the content
  std::string_view plain;
  std::string_view gzip;  // the same, compressed
};

// All of them; the build writes this function (cmake/EmbedPage.cmake).
[[nodiscard]] std::span<const PageAsset> page_assets();

// GET of "/" by a browser, or of one of its files: 200, or 304 where the client has it already.
// Nothing: there is no such file.
[[nodiscard]] std::optional<HttpResponse> page_response(const HttpRequest& request);

// "/" is the page for who asks for HTML and a list of paths for everybody else.
[[nodiscard]] bool wants_page(const HttpRequest& request);

}  // namespace longshore::server
