#include "session/stop_strings.h"

#include <algorithm>

#include "base/check.h"

namespace longshore::session {
namespace {

// Length of the longest suffix of text that is a proper prefix of stop.
size_t open_prefix(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == stop.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops, bool keep_stop)
    : stops_(std::move(stops)), keep_stop_(keep_stop) {
  for (const std::string& stop : stops_) LS_CHECK(!stop.empty());
}

std::string StopStrings::push(std::string_view text) {
  if (!matched_.empty()) return {};
  held_ += text;
  // The match that ends first, which is the one that text arriving byte by byte completes; the
  // longest of these.
  size_t first = std::string::npos;
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < first)) {
      first = at;
      end = at + stop.size();
      matched_ = stop;
    }
  }
  if (!matched_.empty()) {
    std::string out = held_.substr(0, first + (keep_stop_ ? matched_.size() : 0));
    held_.clear();
    return out;
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, open_prefix(held_, stop));
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

}  // namespace longshore::session
