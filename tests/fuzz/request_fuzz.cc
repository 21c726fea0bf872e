// The way of a request from a client's bytes to an answer or to completions: HTTP, limits, JSON,
// dialects. Input: a byte that seeds the split into pieces, then what a connection receives. With
// the first byte's high bit set, its other bits choose a path and the rest is the body, so that a
// mutation need not keep Content-Length right.
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "server/app.h"
#include "server/http_parser.h"
#include "session/loaded_model.h"
#include "tests/paths.h"

namespace {

using namespace longshore;
using namespace longshore::server;
using State = RequestParser::State;

// The bundled model, for its tokenizer and template; nothing is generated.
const session::LoadedModel& model() {
  static CancelToken cancel;
  static const auto loaded = [] {
    session::LoadOptions options;
    options.model = longshore::source_dir() + "/models/glm-nano";
    options.threads = 1;
    options.context_length = 2048;
    return session::LoadedModel::load(options, {}, cancel);
  }();
  LS_CHECK(loaded.has_value());
  return **loaded;
}

const App& app() {
  static Metrics metrics("fuzz");
  static const App app(
      model(), metrics, AppOptions{},
      {[] { return engine::EngineCounters{}; }, [] { return offload::StoreReport{}; },
       [](int64_t bytes) -> Result<int64_t> { return bytes; }});
  return app;
}

void check_response(const HttpResponse& response) {
  LS_CHECK_MSG(response.status < 500, "status {}", response.status);
  const bool json = response.content_type == "application/json" && !response.body.empty();
  LS_CHECK(!json || text::Json::accept(response.body));
  const std::string bytes = serialize(response, Framing{});
  LS_CHECK(bytes.starts_with("HTTP/1.1 "));
}

void check_answer(App::Answer answer) {
  if (const auto* response = std::get_if<HttpResponse>(&answer)) return check_response(*response);
  Exchange& exchange = *std::get<std::unique_ptr<Exchange>>(answer);
  const std::vector<session::CompletionRequest> requests = exchange.take_requests();
  LS_CHECK(!requests.empty());
  (void)exchange.streams();
  LS_CHECK(!exchange.keep_alive(false).empty());
}

struct Parsed {
  State state;
  HttpRequest request;
  int status = 0;
};

// All requests of one connection, fed in pieces of 1 to 64 bytes, or as a whole with seed 0.
std::vector<Parsed> parse(std::string_view bytes, uint32_t seed) {
  std::vector<Parsed> all;
  std::string inbound;
  while (all.size() < 8) {
    RequestParser parser({.header_bytes = 4096, .body_bytes = 65536});
    inbound.erase(0, parser.feed(inbound));
    while ((parser.state() == State::kHead || parser.state() == State::kBody) && !bytes.empty()) {
      seed = seed * 1664525U + 1013904223U;
      const size_t size =
          seed == 1013904223U ? bytes.size() : std::min<size_t>(bytes.size(), 1 + (seed >> 26));
      inbound += bytes.substr(0, size);
      bytes.remove_prefix(size);
      inbound.erase(0, parser.feed(inbound));
    }
    const bool done = parser.state() == State::kDone;
    all.push_back({parser.state(), parser.request(), parser.error().status});
    if (!done) break;
  }
  return all;
}

void post_body(uint8_t which, std::string_view body) {
  constexpr const char* kPaths[] = {"/v1/chat/completions",      "/v1/completions", "/v1/messages",
                                    "/v1/messages/count_tokens", "/tokenize",       "/detokenize",
                                    "/v1/offload/budget"};
  HttpRequest request;
  request.method = "POST";
  request.path = kPaths[which % std::size(kPaths)];
  request.body = body;
  check_answer(app().handle(request));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if ((data[0] & 0x80U) != 0) {
    post_body(data[0] & 0x7fU, bytes);
    return 0;
  }
  const std::vector<Parsed> whole = parse(bytes, 0);
  const std::vector<Parsed> pieces = parse(bytes, 1U + data[0]);
  for (size_t i = 0; i < whole.size() && i < pieces.size(); ++i) {
    // A fault may be told earlier or later, and by another of the limits, but what is a request is
    // one in any pieces.
    LS_CHECK((whole[i].state == State::kDone) == (pieces[i].state == State::kDone));
    if (whole[i].state != State::kDone) break;
    LS_CHECK(whole[i].request.path == pieces[i].request.path &&
             whole[i].request.body == pieces[i].request.body);
  }
  for (const Parsed& parsed : whole) {
    if (parsed.state == State::kDone) {
      if (!app().refuse(parsed.request)) check_answer(app().handle(parsed.request));
    } else if (parsed.state == State::kFailed) {
      LS_CHECK(parsed.status >= 400 && parsed.status < 506);
      const HttpResponse error = app().error_response(parsed.request, ApiError{400, "no", "", ""});
      LS_CHECK(text::Json::accept(error.body));
    }
  }
  return 0;
}
