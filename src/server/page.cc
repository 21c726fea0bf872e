#include "server/page.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

namespace longshore::server {
namespace {

// Scripts, styles and connections of this server alone, nothing inline, and no text becomes HTML:
// the page makes its elements one by one, and trusted types hold it to that.
constexpr const char* kContentSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

// One element of a comma-separated header, without its parameters and blanks.
std::string_view element(std::string_view list) {
  std::string_view one = list.substr(0, std::min(list.find(','), list.find(';')));
  const size_t begin = one.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return one.substr(begin, one.find_last_not_of(" \t") - begin + 1);
}

// Whether `wanted` stands in the list, and not with a weight of zero.
bool accepts(std::string_view list, std::string_view wanted) {
  while (!list.empty()) {
    const std::string_view whole = list.substr(0, list.find(','));
    const bool refused =
        whole.find(";q=0") != std::string_view::npos &&
        whole.find_first_of("123456789", whole.find(";q=0")) == std::string_view::npos;
    if (equal_ignoring_case(element(whole), wanted)) return !refused;
    list.remove_prefix(std::min(list.size(), whole.size() + 1));
  }
  return false;
}

// If-None-Match: a list of tags, weak ones among them, or "*".
bool has_already(std::string_view tags, std::string_view tag) {
  while (!tags.empty()) {
    const std::string_view whole = tags.substr(0, tags.find(','));
    std::string_view one = element(whole);
    if (one.starts_with("W/")) one.remove_prefix(2);
    if (one == "*" || one == tag) return true;
    tags.remove_prefix(std::min(tags.size(), whole.size() + 1));
  }
  return false;
}

void add_security(HttpResponse& response) {
  response.headers.push_back({"Content-Security-Policy", kContentSecurityPolicy});
  response.headers.push_back({"X-Content-Type-Options", "nosniff"});
  response.headers.push_back({"Referrer-Policy", "no-referrer"});
  response.headers.push_back({"Cross-Origin-Opener-Policy", "same-origin"});
  response.headers.push_back({"Cross-Origin-Resource-Policy", "same-origin"});
}

}  // namespace

bool wants_page(const HttpRequest& request) {
  return accepts(request.header("Accept"), "text/html");
}

std::optional<HttpResponse> page_response(const HttpRequest& request) {
  const auto assets = page_assets();
  const auto found = std::find_if(assets.begin(), assets.end(), [&](const PageAsset& asset) {
    return asset.path == request.path;
  });
  if (found == assets.end()) return std::nullopt;
  const bool compressed = accepts(request.header("Accept-Encoding"), "gzip");
  const bool front = found->path == "/";
  const std::string tag = fmt::format("\"{}{}\"", found->hash, compressed ? "-gz" : "");
  HttpResponse response;
  response.content_type = found->content_type;
  response.headers.push_back({"ETag", tag});
  // The path of everything but the front names its version.
  response.headers.push_back(
      {"Cache-Control", front ? "no-cache" : "public, max-age=31536000, immutable"});
  response.headers.push_back({"Vary", front ? "Accept, Accept-Encoding" : "Accept-Encoding"});
  add_security(response);
  if (has_already(request.header("If-None-Match"), tag)) {
    response.status = 304;
    return response;
  }
  if (compressed) response.headers.push_back({"Content-Encoding", "gzip"});
  response.body = compressed ? found->gzip : found->plain;
  return response;
}

}  // namespace longshore::server
