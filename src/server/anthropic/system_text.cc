#include "server/anthropic/system_text.h"

#include <string_view>

namespace longshore::server {
namespace {

constexpr std::string_view kBilling = "x-anthropic-billing-header";
constexpr std::string_view kOpen = "<total_tokens>";
constexpr std::string_view kClose = "</total_tokens>";

void drop_billing(std::string& text) {
  if (!text.starts_with(kBilling)) return;
  const size_t end = text.find('\n');
  text.erase(0, end == std::string::npos ? text.size() : end + 1);
}

void drop_counters(std::string& text) {
  for (size_t open = text.find(kOpen); open != std::string::npos; open = text.find(kOpen, open)) {
    const size_t close = text.find(kClose, open);
    if (close == std::string::npos) return;
    size_t end = close + kClose.size();
    if (end < text.size() && text[end] == '\n') ++end;
    text.erase(open, end - open);
  }
}

}  // namespace

std::string stable_system_text(const std::string& text, bool leading) {
  std::string kept = text;
  drop_billing(kept);
  if (leading) drop_counters(kept);
  return kept;
}

}  // namespace longshore::server
