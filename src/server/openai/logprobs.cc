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

void LegacyLogprobs::add(const text::Tokenizer& tokenizer, const engine::Sampled& token) {
  tokens_.push_back(token_text(tokenizer, token.id));
  token_logprobs_.push_back(finite(token.logprob));
  Json top = Json::object();
  top[token_text(tokenizer, token.id)] =
      finite(token.logprob);  // the token's own always, as OpenAI does
  for (const auto& [id, logprob] : token.top_logprobs)
    top[token_text(tokenizer, id)] = finite(logprob);
  top_logprobs_.push_back(std::move(top));
  offsets_.push_back(offset_);
  offset_ += characters(tokenizer.bytes(token.id));
}

Json LegacyLogprobs::take() {
  return {{"tokens", std::exchange(tokens_, Json::array())},
          {"token_logprobs", std::exchange(token_logprobs_, Json::array())},
          {"top_logprobs", std::exchange(top_logprobs_, Json::array())},
          {"text_offset", std::exchange(offsets_, Json::array())}};
}

}  // namespace longshore::server
