#include "tests/api/support.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/paths.h"

namespace longshore::server {

session::LoadedModel& nano() {
  static const std::unique_ptr<session::LoadedModel> loaded = [] {
    session::LoadOptions options;
    options.model = longshore::source_dir() + "/models/glm-nano";
    options.threads = 2;
    options.context_length = 1024;
    const CancelToken cancel;
    auto made = session::LoadedModel::load(
        options, [](int64_t, int64_t) {}, cancel);
    LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
    return std::move(*made);
  }();
  return *loaded;
}

namespace {

std::vector<int32_t> encode(const std::string& text) {
  auto ids = nano().tokenizer->encode(text);
  LS_CHECK_MSG(ids.has_value(), "{}", ids.error().message);
  return std::move(*ids);
}

// A token for every byte: half characters and halves of tags.
void append_bytes(const std::string& text, std::vector<int32_t>& ids) {
  static const std::vector<int32_t> by_byte = [] {
    std::vector<int32_t> table(256, -1);
    for (int32_t id = 0; id < nano().tokenizer->vocab_size(); ++id) {
      const std::string_view bytes = nano().tokenizer->bytes(id);
      if (bytes.size() == 1) table[static_cast<uint8_t>(bytes[0])] = id;
    }
    return table;
  }();
  for (const char c : text) ids.push_back(by_byte[static_cast<uint8_t>(c)]);
}

std::vector<int32_t> split_tokens(const std::string& text, std::mt19937& random, bool whole) {
  if (whole) return encode(text);
  std::vector<int32_t> ids;
  for (size_t at = 0; at < text.size();) {
    size_t length = 1 + random() % 12;
    while (at + length < text.size() && (static_cast<uint8_t>(text[at + length]) & 0xC0U) == 0x80U)
      ++length;
    const std::string piece = text.substr(at, length);
    if (random() % 3 == 0) {
      append_bytes(piece, ids);
    } else {
      const std::vector<int32_t> more = encode(piece);
      ids.insert(ids.end(), more.begin(), more.end());
    }
    at += piece.size();
  }
  return ids;
}

// One choice on its way.
struct Stream {
  engine::Listener listener;
  std::vector<int32_t> ids;
  engine::SamplingParams sampling;
  std::vector<int32_t> stop_ids;
  engine::GenerationResult result;
  size_t next = 0;
  bool done = false;

  void step() {
    if (next == ids.size()) return finish();
    const int32_t id = ids[next++];
    engine::Sampled sampled{
        .id = id, .logprob = -0.25F * static_cast<float>(next % 7), .top_logprobs = {}};
    for (int32_t i = 0; i < sampling.top_logprobs; ++i) {
      sampled.top_logprobs.emplace_back((id + i) % 4096, sampled.logprob - static_cast<float>(i));
    }
    ++result.stats.output_tokens;
    const bool stops = std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
    const bool goes_on = listener.on_token(sampled);
    if (stops) {
      result.reason = engine::FinishReason::kStopId;
    } else if (!goes_on) {
      result.reason = engine::FinishReason::kCallback;
    }
    if (stops || !goes_on) finish();
  }

  void finish() {
    done = true;
    listener.on_finish(result);
  }
};

}  // namespace

Outcome drive(Exchange& exchange, const std::vector<Output>& outputs, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<session::CompletionRequest> requests = exchange.take_requests();
  EXPECT_EQ(requests.size(), outputs.size());
  Outcome run;
  run.completions.resize(outputs.size());
  std::vector<Stream> streams(outputs.size());
  bool begun = false;
  for (size_t i = 0; i < outputs.size(); ++i) {
    session::CompletionSink sink;
    sink.on_start = [&](const engine::GenerationStats& stats) {
      if (!std::exchange(begun, true)) run.events += exchange.begin(stats);
    };
    sink.on_progress = [&, i](const session::Completion&, const session::Progress& progress) {
      run.events += exchange.progress(i, progress);
      return true;
    };
    sink.on_finish = [&, i](session::Completion completion) {
      run.completions[i] = completion;
      run.events += exchange.finished(i, completion);
    };
    EXPECT_TRUE(session::prepare(nano(), requests[i]));
    Stream& stream = streams[i];
    stream.listener = session::make_listener(nano(), requests[i], std::move(sink));
    stream.ids = split_tokens(outputs[i].text, random, seed == 0);
    if (outputs[i].reason == engine::FinishReason::kStopId)
      stream.ids.push_back(outputs[i].stop_id);
    stream.sampling = requests[i].generation.sampling;
    if (!requests[i].generation.ignore_stop_ids) {
      stream.stop_ids = requests[i].generation.stop_ids;
    }
    stream.result.reason = outputs[i].reason;
    if (outputs[i].reason == engine::FinishReason::kFault) {
      stream.result.error = Error{ErrorKind::kDevice, "logits are not numbers"};
    }
    stream.result.stats.prompt_tokens = static_cast<int64_t>(requests[i].generation.prompt.size());
    stream.result.stats.cached_tokens = 3;
    stream.listener.on_start(stream.result.stats);
  }
  while (std::any_of(streams.begin(), streams.end(), [](const Stream& s) { return !s.done; })) {
    Stream& stream = streams[random() % streams.size()];
    if (!stream.done) stream.step();
  }
  return run;
}

std::vector<Event> events_of(const std::string& stream) {
  std::vector<Event> events;
  size_t at = 0;
  while (at < stream.size()) {
    const size_t end = stream.find("\n\n", at);
    if (end == std::string::npos) {
      ADD_FAILURE() << "a torn event: " << stream.substr(at);
      break;
    }
    std::string text = stream.substr(at, end - at);
    at = end + 2;
    if (text.starts_with(":")) continue;
    Event event;
    if (text.starts_with("event: ")) {
      const size_t line = text.find('\n');
      event.name = text.substr(7, line - 7);
      text.erase(0, line + 1);
    }
    EXPECT_TRUE(text.starts_with("data: ")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    event.data = text.substr(6);
    events.push_back(std::move(event));
  }
  return events;
}

namespace {

Json with(Json body, const char* more) {
  const Json parsed = Json::parse(more);
  for (const auto& [name, value] : parsed.items()) body[name] = value;
  return body;
}

}  // namespace

Json chat_body(const char* more) {
  return with(
      {{"model", "glm"}, {"messages", Json::parse(R"([{"role": "user", "content": "Hello!"}])")}},
      more);
}

Json message_body(const char* more) {
  return with({{"model", "glm"},
               {"max_tokens", 100},
               {"messages", Json::parse(R"([{"role": "user", "content": "Hello!"}])")}},
              more);
}

std::string prompt_of(Exchange& exchange) {
  return nano().tokenizer->decode(exchange.take_requests().front().generation.prompt);
}

}  // namespace longshore::server
