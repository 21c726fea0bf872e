// Drives Exchanges without an engine: a text as the model's output, in any split, through the real
// session to events and answers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/api_options.h"
#include "server/exchange.h"
#include "text/chat_template.h"

namespace longshore::server {

using text::Json;

// The bundled model; the context is 1024 tokens.
session::LoadedModel& nano();

constexpr int32_t kUserToken = 4080;         // ends an answer
constexpr int32_t kObservationToken = 4082;  // ends a turn of calls

// What the model writes for one choice.
struct Output {
  std::string text;
  engine::FinishReason reason = engine::FinishReason::kStopId;
  int32_t stop_id = kUserToken;  // with kStopId
};

struct Outcome {
  std::string events;
  std::vector<session::Completion> completions;
};

// seed 0: as the tokenizer splits; others: random splits, down to single bytes, and choices
// interleaved.
Outcome drive(Exchange& exchange, const std::vector<Output>& outputs, uint32_t seed = 0);

struct Event {
  std::string name;  // empty where there is no event: line
  std::string data;
};
// Comments are left out; anything that is not a whole event is a failure.
std::vector<Event> events_of(const std::string& stream);

// A valid body with the fields of `more` on top.
Json chat_body(const char* more = "{}");
Json message_body(const char* more = "{}");

// The prompt of the first completion, as text.
std::string prompt_of(Exchange& exchange);

}  // namespace longshore::server
