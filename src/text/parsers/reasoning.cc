#include "text/parsers/reasoning.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/parsers/tag_scan.h"

namespace longshore::text {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kToolCall = "<tool_call>";
constexpr std::array<std::string_view, 2> kInReasoning = {kEndThink, kToolCall};

std::string_view without_leading_blank(std::string_view text) {
  return text.substr(std::min(text.size(), text.find_first_not_of(kBlank)));
}

}  // namespace

ReasoningSplitter::ReasoningSplitter(bool starts_in_reasoning, std::vector<std::string> tool_names)
    : starts_in_reasoning_(starts_in_reasoning), tool_names_(std::move(tool_names)) {}

ReasoningSplitter::Pieces ReasoningSplitter::push(std::string_view text) {
  Pieces out;
  if (state_ == State::kRest) {
    out.rest = text;
    return out;
  }
  buffer_ += text;
  while (step(out)) {
  }
  return out;
}

bool ReasoningSplitter::step(Pieces& out) {
  switch (state_) {
    case State::kStart:
      return step_start();
    case State::kReasoning:
      return step_reasoning(out);
    case State::kAfter:
      return step_after();
    case State::kRest:
      out.rest += std::exchange(buffer_, {});
      return false;
  }
  return false;
}

std::string_view ReasoningSplitter::after_blank() {
  scan_ = std::min(buffer_.size(), buffer_.find_first_not_of(kBlank, scan_));
  return std::string_view(buffer_).substr(scan_);
}

void ReasoningSplitter::enter(State state, size_t from) {
  buffer_.erase(0, from);
  scan_ = 0;
  state_ = state;
  if (state != State::kReasoning) reasoning_ = {};
}

bool ReasoningSplitter::step_start() {
  const std::string_view text = after_blank();
  if (kThink.starts_with(text) && text != kThink) return false;
  if (text.starts_with(kThink)) {
    enter(State::kReasoning, scan_ + kThink.size());
  } else {
    enter(starts_in_reasoning_ ? State::kReasoning : State::kAfter, 0);
  }
  return true;
}

// A lone `</think>` here is left over: the reasoning has ended or there was none.
bool ReasoningSplitter::step_after() {
  const std::string_view text = after_blank();
  if (text.starts_with(kEndThink)) {
    enter(State::kAfter, scan_ + kEndThink.size());
    return true;
  }
  if (kEndThink.starts_with(text)) return false;
  enter(State::kRest, 0);
  return true;
}

bool ReasoningSplitter::step_reasoning(Pieces& out) {
  const std::span<const std::string_view> tags(kInReasoning.data(), tool_names_.empty() ? 1 : 2);
  const TagHit hit = find_tag(buffer_, scan_, tags);
  const auto take = [&](size_t length) {
    add_reasoning(std::string_view(buffer_).substr(0, length), out);
    buffer_.erase(0, length);
    scan_ = 0;
  };
  if (hit.tag < 0) {
    take(hit.begin);
    return false;
  }
  if (kInReasoning[static_cast<size_t>(hit.tag)] == kToolCall) {
    const size_t end = hit.begin + kToolCall.size();
    const Call call = is_call(std::string_view(buffer_).substr(end));
    take(call == Call::kNo ? end : hit.begin);
    if (call == Call::kYes) enter(State::kRest, 0);
    return call != Call::kUndecided;
  }
  take(hit.begin);
  enter(State::kAfter, kEndThink.size());
  return true;
}

ReasoningSplitter::Call ReasoningSplitter::is_call(std::string_view after) const {
  constexpr size_t kMaxBlank = 64;
  const std::string_view text = without_leading_blank(after);
  if (after.size() - text.size() > kMaxBlank) return Call::kNo;
  Call result = Call::kNo;
  for (const std::string& name : tool_names_) {
    if (text.size() <= name.size()) {
      if (std::string_view(name).starts_with(text)) result = Call::kUndecided;
    } else if (text.starts_with(name) &&
               std::string_view("<>{ \t\r\n").find(text[name.size()]) != std::string_view::npos) {
      return Call::kYes;
    }
  }
  return result;
}

void ReasoningSplitter::add_reasoning(std::string_view text, Pieces& out) {
  const size_t last = text.find_last_not_of(kBlank);
  if (last == std::string_view::npos) {
    if (!reasoning_.empty()) blank_ += text;
    return;
  }
  if (reasoning_.empty()) {
    text = without_leading_blank(text);
  }
  const size_t shown = text.find_last_not_of(kBlank) + 1;
  const std::string piece = std::exchange(blank_, {}) + std::string(text.substr(0, shown));
  out.reasoning += piece;
  reasoning_ += piece;
  blank_ = text.substr(shown);
}

ReasoningSplitter::Pieces ReasoningSplitter::finish(bool stopped) {
  Pieces out;
  const std::string left = std::exchange(buffer_, {});
  const std::string_view text = without_leading_blank(left);
  const bool reasoning =
      state_ == State::kReasoning || (state_ == State::kStart && starts_in_reasoning_);
  if (reasoning) {
    if (shows_partial_tag(text, stopped)) add_reasoning(left, out);
    if (stopped) out.rest = std::exchange(reasoning_, {});
  } else if (shows_partial_tag(text, stopped)) {
    out.rest = left;
  }
  state_ = State::kRest;
  return out;
}

}  // namespace longshore::text
