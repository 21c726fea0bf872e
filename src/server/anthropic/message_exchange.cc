#include "server/anthropic/message_exchange.h"

#include <algorithm>
#include <utility>

#include "server/anthropic/errors.h"
#include "server/api/failure.h"

namespace longshore::server {
namespace {

using Action = BlockStep::Action;

// input_tokens leaves out what was found in the cache.
Json usage_of(const engine::GenerationStats& stats) {
  return {{"input_tokens", stats.prompt_tokens - stats.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", stats.cached_tokens},
          {"output_tokens", stats.output_tokens}};
}

struct Stop {
  Json reason;
  Json sequence;
};

Stop stop_of(const session::Completion& completion, const std::vector<std::string>& sequences) {
  if (completion.finish_reason == "length") return {"max_tokens", nullptr};
  if (completion.finish_reason == "tool_calls") return {"tool_use", nullptr};
  const bool by_string =
      std::find(sequences.begin(), sequences.end(), completion.matched_stop) != sequences.end();
  if (by_string) return {"stop_sequence", completion.matched_stop};
  return {"end_turn", nullptr};
}

const char* delta_name(BlockKind kind) {
  if (kind == BlockKind::kThinking) return "thinking_delta";
  return kind == BlockKind::kText ? "text_delta" : "input_json_delta";
}

const char* delta_field(BlockKind kind) {
  if (kind == BlockKind::kThinking) return "thinking";
  return kind == BlockKind::kText ? "text" : "partial_json";
}

std::string block_delta(int block, Json delta) {
  return sse_event(
      "content_block_delta",
      {{"type", "content_block_delta"}, {"index", block}, {"delta", std::move(delta)}});
}

}  // namespace

MessageExchange::MessageExchange(MessageCall call)
    : call_(std::move(call)), blocks_(call_.show_thinking, call_.parallel_calls) {}

Json MessageExchange::message(Json content, Json stop_reason, Json stop_sequence,
                              Json usage) const {
  return {{"id", call_.ids.make("msg_")},
          {"type", "message"},
          {"role", "assistant"},
          {"model", call_.model},
          {"content", std::move(content)},
          {"stop_reason", std::move(stop_reason)},
          {"stop_sequence", std::move(stop_sequence)},
          {"usage", std::move(usage)}};
}

std::string MessageExchange::begin(const engine::GenerationStats& stats) {
  return sse_event("message_start",
                   {{"type", "message_start"},
                    {"message", message(Json::array(), nullptr, nullptr, usage_of(stats))}});
}

Json MessageExchange::empty_block(const BlockStep& step) const {
  if (step.kind == BlockKind::kThinking)
    return {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
  if (step.kind == BlockKind::kText) return {{"type", "text"}, {"text", ""}};
  return {{"type", "tool_use"},
          {"id", call_.ids.make("toolu_", 1, static_cast<uint64_t>(step.call_index))},
          {"name", step.text},
          {"input", Json::object()}};
}

std::string MessageExchange::event_of(const BlockStep& step) const {
  switch (step.action) {
    case Action::kOpen:
      return sse_event("content_block_start", {{"type", "content_block_start"},
                                               {"index", step.block},
                                               {"content_block", empty_block(step)}});
    case Action::kDelta:
      return block_delta(step.block,
                         {{"type", delta_name(step.kind)}, {delta_field(step.kind), step.text}});
    case Action::kClose: {
      std::string events;
      if (step.kind == BlockKind::kThinking) {
        events = block_delta(step.block, {{"type", "signature_delta"}, {"signature", step.text}});
      }
      return events + sse_event("content_block_stop",
                                {{"type", "content_block_stop"}, {"index", step.block}});
    }
  }
  return {};
}

std::string MessageExchange::progress(size_t /*choice*/, const session::Progress& progress) {
  std::string events;
  if (ended_) return events;
  for (const text::OutputDelta& delta : progress.deltas) {
    for (const BlockStep& step : blocks_.take(delta)) events += event_of(step);
  }
  return events;
}

std::string MessageExchange::finished(size_t /*choice*/, const session::Completion& completion) {
  if (ended_) return {};
  if (const auto failure = failure_of(completion)) return failed(*failure);
  ended_ = true;
  std::string events;
  for (const BlockStep& step : blocks_.close()) events += event_of(step);
  Stop stop = stop_of(completion, call_.request.stop);
  const Json delta = {{"stop_reason", std::move(stop.reason)},
                      {"stop_sequence", std::move(stop.sequence)}};
  events += sse_event(
      "message_delta",
      {{"type", "message_delta"}, {"delta", delta}, {"usage", usage_of(completion.stats)}});
  return events + sse_event("message_stop", {{"type", "message_stop"}});
}

std::string MessageExchange::failed(const ApiError& error) {
  if (std::exchange(ended_, true)) return {};
  return sse_event("error", anthropic_error_json(error));
}

std::string MessageExchange::keep_alive(bool begun) const {
  return begun ? sse_event("ping", {{"type", "ping"}}) : std::string(kSseComment);
}

Json MessageExchange::content_of(const session::Completion& completion) const {
  text::OutputParser parser(call_.request.parser);
  std::vector<text::OutputDelta> deltas = parser.push(completion.text);
  for (text::OutputDelta& delta : parser.finish(/*stopped=*/completion.finish_reason != "length")) {
    deltas.push_back(std::move(delta));
  }
  Json content = Json::array();
  std::string text;
  const auto apply = [&](const BlockStep& step) {
    if (step.action == Action::kOpen) content.push_back(empty_block(step));
    if (step.action == Action::kOpen) text.clear();
    if (step.action == Action::kDelta) text += step.text;
    if (step.action != Action::kClose) return;
    Json& block = content.back();
    if (step.kind == BlockKind::kThinking) block["signature"] = step.text;
    if (step.kind == BlockKind::kToolUse) {
      // The input must be an object, which a call that was cut has not got.
      Json input = Json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (input.is_object()) {
        block["input"] = std::move(input);
      } else {
        content.erase(content.size() - 1);
      }
    } else {
      block[delta_field(step.kind)] = text;
    }
  };
  BlockSequence blocks(call_.show_thinking, call_.parallel_calls);
  for (const text::OutputDelta& delta : deltas) {
    for (const BlockStep& step : blocks.take(delta)) apply(step);
  }
  for (const BlockStep& step : blocks.close()) apply(step);
  return content;
}

std::string MessageExchange::response(const std::vector<session::Completion>& completions) const {
  const session::Completion& completion = completions.front();
  Stop stop = stop_of(completion, call_.request.stop);
  return to_text(message(content_of(completion), std::move(stop.reason), std::move(stop.sequence),
                         usage_of(completion.stats)));
}

}  // namespace longshore::server
