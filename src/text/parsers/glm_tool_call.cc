#include "text/parsers/glm_tool_call.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "text/parsers/tag_scan.h"

namespace longshore::text {
namespace {

enum Tag { kCall, kEndCall, kKeyTag, kEndKey, kValueTag, kEndValue };
constexpr std::array<std::string_view, 6> kTags = {"<tool_call>", "</tool_call>", "<arg_key>",
                                                   "</arg_key>",  "<arg_value>",  "</arg_value>"};
// Longer text after `<tool_call>` is no name.
constexpr size_t kMaxName = 256;
constexpr std::string_view kNotInNames = "`'\"()[]";

// "NAME>" of the JSON form.
std::string_view without_arrow(std::string_view name) {
  name = trim(name);
  while (name.ends_with('>')) name = trim(name.substr(0, name.size() - 1));
  return name;
}

}  // namespace

GlmToolCallParser::GlmToolCallParser(const ToolSchemas& schemas, Options options)
    : schemas_(schemas), options_(options) {}

void GlmToolCallParser::push(std::string_view text, std::vector<OutputDelta>& out) {
  out_ = &out;
  buffer_ += text;
  while (step()) {
  }
  // What is done goes, in strides that keep the copying linear.
  if (position_ > buffer_.size() / 2) {
    const size_t done = position_;
    buffer_.erase(0, done);
    position_ = 0;
    scan_ -= done;
    if (close_mark_ != kNowhere) close_mark_ -= done;
    if (key_mark_ != kNowhere) key_mark_ -= done;
  }
}

bool GlmToolCallParser::step() {
  switch (state_) {
    case State::kContent:
      return step_content();
    case State::kName:
      return step_name();
    case State::kBetween:
      return step_between();
    case State::kKey:
      return step_key();
    case State::kAfterKey:
      return step_after_key();
    case State::kValue:
      return step_value();
    case State::kJson:
      return step_json();
    case State::kAfterJson:
      return step_after_json();
  }
  return false;
}

bool GlmToolCallParser::next_tag() {
  const TagHit hit = find_tag(buffer_, scan_, kTags);
  scan_ = hit.begin;
  if (hit.tag < 0) return false;
  part_ = std::string_view(buffer_).substr(position_, hit.begin - position_);
  tag_ = hit.tag;
  tag_begin_ = hit.begin;
  tag_end_ = hit.begin + kTags[static_cast<size_t>(hit.tag)].size();
  return true;
}

void GlmToolCallParser::enter(State state, size_t from) {
  state_ = state;
  position_ = from;
  scan_ = from;
  close_mark_ = kNowhere;
  key_mark_ = kNowhere;
}

// -- content --

bool GlmToolCallParser::step_content() {
  const TagHit hit = find_tag(buffer_, scan_, kTags);
  content(std::string_view(buffer_).substr(position_, hit.begin - position_));
  position_ = scan_ = hit.begin;
  if (hit.tag < 0) return false;
  // Other tags are left over from a broken call and go.
  const size_t end = hit.begin + kTags[static_cast<size_t>(hit.tag)].size();
  enter(hit.tag == kCall ? State::kName : State::kContent, end);
  return true;
}

void GlmToolCallParser::content(std::string_view text) {
  const size_t last = text.find_last_not_of(kBlank);
  if (last == std::string_view::npos) {
    blank_ += text;
    return;
  }
  std::string shown = std::exchange(blank_, std::string(text.substr(last + 1)));
  shown += text.substr(0, last + 1);
  if (!content_shown_ && options_.trim_leading) {
    // Blank lines go, the indentation of the first line stays.
    const size_t first = shown.find_first_not_of(kBlank);
    const size_t line = shown.find_last_of("\r\n", first);
    if (line != std::string::npos) shown.erase(0, line + 1);
  }
  content_shown_ = true;
  call_was_last_ = false;
  emit(OutputDelta::Kind::kContent, shown);
}

// -- the name --

bool GlmToolCallParser::is_name(std::string_view name) const {
  if (schemas_.knows(name)) return true;
  return std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<uint8_t>(c) <= ' ' || kNotInNames.find(c) != std::string_view::npos;
  });
}

bool GlmToolCallParser::reject_call() {
  enter(State::kContent, position_);
  return true;
}

bool GlmToolCallParser::step_name() {
  const std::string_view text = std::string_view(buffer_).substr(position_);
  const TagHit hit = find_tag(text, 0, kTags);
  const size_t brace = text.find('{');
  const bool json = brace < hit.begin;
  const size_t end = json ? brace : hit.begin;
  if (end > kMaxName) return reject_call();
  if (!json && hit.tag < 0) return false;
  const size_t begin = std::min(end, text.find_first_not_of(kBlank));
  const size_t line_end = std::min(end, text.find_first_of("\r\n", begin));
  std::string_view name = without_arrow(text.substr(begin, line_end - begin));
  if (!is_name(name)) return reject_call();
  size_t next = end;
  if (!trim(text.substr(line_end, end - line_end)).empty()) {
    next = line_end;  // "NAME\nKEY</arg_key>": what follows the line is for the arguments
  } else if (!json && hit.tag == kEndKey) {
    name = split_glued_key(name);
    next = begin + name.size();
  }
  begin_call(name);
  enter(json && next == end ? State::kJson : State::kBetween, position_ + next);
  return true;
}

std::string_view GlmToolCallParser::split_glued_key(std::string_view text) const {
  std::string_view best = text;
  bool best_has_key = false;
  for (size_t length = text.size() - std::min<size_t>(1, text.size()); length > 0; --length) {
    const std::string_view name = text.substr(0, length);
    if (!schemas_.knows(name)) continue;
    const bool has_key = schemas_.has_parameter(name, text.substr(length));
    if (best.size() == text.size() || (has_key && !best_has_key)) best = name;
    best_has_key = best_has_key || has_key;
  }
  return best;
}

// -- the arguments --

bool GlmToolCallParser::step_between() {
  if (!next_tag()) return false;
  switch (tag_) {
    case kKeyTag:
      enter(State::kKey, tag_end_);
      return true;
    case kEndKey:  // its `<arg_key>` is missing
      key_ = trim(part_);
      enter(State::kAfterKey, tag_end_);
      return true;
    case kValueTag:  // both tags of the key are missing
      key_ = trim(part_);
      enter(State::kValue, tag_end_);
      return true;
    case kEndCall:
      end_call();
      enter(State::kContent, tag_end_);
      return true;
    case kCall:
      return step_nested_call();
    default:
      enter(State::kBetween, tag_end_);
      return true;
  }
}

// `<tool_call>` inside a call: the next call, or it stands in the place of `<arg_key>`.
bool GlmToolCallParser::step_nested_call() {
  const TagHit next = find_tag(buffer_, tag_end_, kTags);
  const bool near = next.begin - tag_end_ <= kMaxName;
  if (near && next.tag < 0 && !finishing_) return false;
  if (near && next.tag == kEndKey) {
    key_ = trim(std::string_view(buffer_).substr(tag_end_, next.begin - tag_end_));
    enter(State::kAfterKey, next.begin + kTags[kEndKey].size());
    return true;
  }
  end_call();
  enter(State::kName, tag_end_);
  return true;
}

bool GlmToolCallParser::step_key() {
  if (!next_tag()) return false;
  if (tag_ == kEndKey || tag_ == kValueTag) {
    key_ = trim(part_);
    enter(tag_ == kEndKey ? State::kAfterKey : State::kValue, tag_end_);
  } else if (tag_ == kKeyTag) {
    enter(State::kKey, tag_end_);
  } else {
    enter(State::kBetween, tag_ == kEndValue ? tag_end_ : tag_begin_);
  }
  return true;
}

bool GlmToolCallParser::step_after_key() {
  if (!next_tag()) return false;
  if (tag_ == kValueTag) {
    enter(State::kValue, tag_end_);
  } else if (tag_ == kEndKey) {
    enter(State::kAfterKey, tag_end_);
  } else if (tag_ == kEndValue) {  // its `<arg_value>` is missing
    set_value(part_.substr(std::min(part_.size(), part_.find_first_not_of("\r\n"))));
    enter(State::kBetween, tag_end_);
  } else {
    if (!trim(part_).empty()) set_value(trim(part_));
    enter(State::kBetween, tag_begin_);
  }
  return true;
}

// Tags inside a value may be its text: they end it only where what follows shows that its
// `</arg_value>` is missing.
bool GlmToolCallParser::step_value() {
  if (!next_tag()) return false;
  const bool closed = close_mark_ != kNowhere;
  scan_ = tag_end_;
  switch (tag_) {
    case kEndValue:
      set_value(part_);
      enter(State::kBetween, tag_end_);
      break;
    case kEndCall:
      if (!closed) close_mark_ = tag_begin_;
      break;
    case kCall:
      if (closed) end_value_early(close_mark_);
      break;
    case kKeyTag:
      if (closed) {
        end_value_early(close_mark_);
      } else {
        key_mark_ = tag_begin_;
      }
      break;
    case kValueTag:
      if (key_mark_ != kNowhere) end_value_early(key_mark_);
      break;
    default:
      break;
  }
  return true;
}

void GlmToolCallParser::end_value_early(size_t end) {
  set_value(std::string_view(buffer_).substr(position_, end - position_));
  enter(State::kBetween, end);
}

void GlmToolCallParser::set_value(std::string_view value) {
  // A key that comes twice cannot be taken back once it is sent: the first one counts.
  if (args_done_ || key_.empty() || !keys_.insert(key_).second) return;
  std::string json(1, keys_.size() == 1 ? '{' : ',');
  json += json_string(key_);
  json += ':';
  json += schemas_.to_json(call_name_, key_, value);
  emit_call(OutputDelta::Kind::kToolCallArgs, json);
}

// -- the JSON form --

bool GlmToolCallParser::step_json() {
  for (; scan_ < buffer_.size(); ++scan_) {
    const char c = buffer_[scan_];
    if (json_string_) {
      if (json_escape_ || c == '\\') {
        json_escape_ = !json_escape_;
      } else if (c == '"') {
        json_string_ = false;
      }
    } else if (c == '"') {
      json_string_ = true;
    } else if (c == '{' || c == '[') {
      ++json_depth_;
    } else if (c == '<') {
      enter(State::kBetween, scan_);  // no JSON; the arguments stay empty
      return true;
    } else if ((c == '}' || c == ']') && --json_depth_ == 0) {
      const std::string_view json =
          std::string_view(buffer_).substr(position_, scan_ + 1 - position_);
      args_done_ = is_json(json);
      if (args_done_) emit_call(OutputDelta::Kind::kToolCallArgs, json);
      enter(State::kAfterJson, scan_ + 1);
      return true;
    }
  }
  return false;
}

bool GlmToolCallParser::step_after_json() {
  position_ = scan_ = std::min(buffer_.size(), buffer_.find_first_not_of(" \t\r\n}", scan_));
  if (position_ == buffer_.size()) return false;
  const TagHit hit = find_tag(buffer_, position_, kTags);
  if (hit.begin == position_ && hit.tag < 0) return false;
  if (hit.begin == position_) {
    enter(State::kBetween, position_);
  } else {
    end_call();
    enter(State::kContent, position_);
  }
  return true;
}

// -- deltas --

void GlmToolCallParser::begin_call(std::string_view name) {
  call_name_ = name;
  call_dropped_ = !options_.emit_calls || name.empty();
  call_was_last_ = true;
  args_done_ = false;
  keys_.clear();
  json_depth_ = 0;
  json_string_ = json_escape_ = false;
  if (!call_dropped_) ++call_index_;
  emit_call(OutputDelta::Kind::kToolCallBegin, name);
}

void GlmToolCallParser::end_call() {
  if (!args_done_) emit_call(OutputDelta::Kind::kToolCallArgs, keys_.empty() ? "{}" : "}");
  emit_call(OutputDelta::Kind::kToolCallEnd, {});
}

// Clients take no arguments at all for `{}`: an open brace is what no reader accepts.
void GlmToolCallParser::leave_call_open() {
  if (args_done_) return end_call();
  if (keys_.empty()) emit_call(OutputDelta::Kind::kToolCallArgs, "{");
}

void GlmToolCallParser::emit_call(OutputDelta::Kind kind, std::string_view text) {
  if (!call_dropped_) out_->push_back({kind, call_index_, std::string(text)});
}

void GlmToolCallParser::emit(OutputDelta::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (!out_->empty() && out_->back().kind == kind) {
    out_->back().text += text;
  } else {
    out_->push_back({kind, 0, std::string(text)});
  }
}

// -- the end --

void GlmToolCallParser::finish(bool stopped, std::vector<OutputDelta>& out) {
  out_ = &out;
  finishing_ = true;
  while (step()) {
  }
  // Of a cut output the mark may be text of the value, whose end is yet to come.
  while (stopped && state_ == State::kValue && close_mark_ != kNowhere) {
    end_value_early(close_mark_);
    while (step()) {
    }
  }
  if (state_ == State::kName) {
    finish_name(stopped);
  } else if (state_ != State::kContent) {
    // A model that stopped by itself has written the whole value.
    if (state_ == State::kValue && stopped) set_value(std::string_view(buffer_).substr(position_));
    if (stopped) {
      end_call();
    } else {
      leave_call_open();
    }
    enter(State::kContent, buffer_.size());
  }
  finish_content(stopped);
}

void GlmToolCallParser::finish_name(bool stopped) {
  const std::string_view text = std::string_view(buffer_).substr(position_);
  const TagHit hit = find_tag(text, 0, kTags);
  const size_t begin = std::min(hit.begin, text.find_first_not_of(kBlank));
  const size_t end = std::min(hit.begin, text.find_first_of("\r\n", begin));
  const std::string_view name = without_arrow(text.substr(begin, end - begin));
  if (!is_name(name)) {
    reject_call();
    step_content();
    return;
  }
  // Of a cut call nothing has been shown yet, so nothing is.
  if (stopped && !name.empty() && (schemas_.empty() || schemas_.knows(name))) {
    begin_call(name);
    end_call();
  }
  call_was_last_ = true;
  enter(State::kContent, buffer_.size());
}

void GlmToolCallParser::finish_content(bool stopped) {
  const std::string_view partial = std::string_view(buffer_).substr(position_);
  if (shows_partial_tag(partial, stopped)) content(partial);
  const bool shows_blank = !call_was_last_ && (content_shown_ || !options_.trim_leading);
  if (shows_blank) emit(OutputDelta::Kind::kContent, blank_);
  blank_.clear();
  buffer_.clear();
  enter(State::kContent, 0);
}

}  // namespace longshore::text
