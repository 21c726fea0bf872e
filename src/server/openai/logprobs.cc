#include "server/openai/logprobs.h"

#include <algorithm>
#include <utility>

#include "text/utf8.h"

namespace longshore::server {
namespace {

// JSON has no infinity.
double finite(float logprob) {
  return std::max(static_cast<double>(logprob), -9999.0);
}

Json bytes_of(std::string_view text) {
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
  return bytes;
}

Json entry(const text::Tokenizer& tokenizer, int32_t id, float logprob) {
  return {{"token", token_text(tokenizer, id)},
          {"logprob", finite(logprob)},
          {"bytes", bytes_of(tokenizer.bytes(id))}};
}

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0U) != 0x80U; });
}

}  // namespace

std::string token_text(const text::Tokenizer& tokenizer, int32_t id) {
  std::string text;
  text::append_utf8_lossy(text, tokenizer.bytes(id), /*last=*/true);
  return text;
}

Json chat_logprob(const text::Tokenizer& tokenizer, const engine::Sampled& token) {
  Json made = entry(tokenizer, token.id, token.logprob);
  Json top = Json::array();
  for (const auto& [id, logprob] : token.top_logprobs) top.push_back(entry(tokenizer, id, logprob));
  made["top_logprobs"] = std::move(top);
  return made;
}

void LegacyLogprobs::add(const text::Tokenizer& tokenizer, const engine::Sampled& token,
                         bool shows) {
  Json top = Json::object();
  top[token_text(tokenizer, token.id)] =
      finite(token.logprob);  // the token's own always, as OpenAI does
  for (const auto& [id, logprob] : token.top_logprobs)
    top[token_text(tokenizer, id)] = finite(logprob);
  entries_.push_back(
      {bytes_, offset_, token_text(tokenizer, token.id), finite(token.logprob), std::move(top)});
  if (!shows) return;
  bytes_ += tokenizer.bytes(token.id).size();
  offset_ += characters(tokenizer.bytes(token.id));
}

bool LegacyLogprobs::has_before(size_t end) const {
  return !entries_.empty() && entries_.front().begin < end;
}

Json LegacyLogprobs::take_before(size_t end) {
  Json tokens = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  size_t taken = 0;
  for (; taken < entries_.size() && entries_[taken].begin < end; ++taken) {
    Entry& entry = entries_[taken];
    tokens.push_back(std::move(entry.token));
    logprobs.push_back(entry.logprob);
    tops.push_back(std::move(entry.top));
    offsets.push_back(entry.offset);
  }
  entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(taken));
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

}  // namespace longshore::server
