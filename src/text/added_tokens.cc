#include "text/added_tokens.h"

#include <algorithm>

#include "text/split_regex.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

// Start of the last character of `text`, which is not empty.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

size_t white_space_at_end(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t at = last_character(text.substr(0, end));
    if (!is_white_space(utf8_step(text, at).code_point)) break;
    end = at;
  }
  return text.size() - end;
}

size_t white_space_at_start(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (!is_white_space(step.code_point)) break;
    at += step.length;
  }
  return at;
}

// No character of a word on either side of text[begin, end).
bool stands_alone(std::string_view text, size_t begin, size_t end) {
  const auto word_at = [&](size_t at) { return is_word_character(utf8_step(text, at).code_point); };
  if (begin > 0 && word_at(last_character(text.substr(0, begin)))) return false;
  return end == text.size() || !word_at(end);
}

}  // namespace

void AddedTokens::Trie::insert(std::string_view content, int32_t token) {
  starts_[static_cast<uint8_t>(content[0])] = true;
  int32_t node = 0;
  for (const char byte : content) {
    const uint64_t key = (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(byte);
    const auto [edge, fresh] = edges_.emplace(key, static_cast<int32_t>(token_of_.size()));
    if (fresh) token_of_.push_back(-1);
    node = edge->second;
  }
  token_of_[static_cast<size_t>(node)] = token;
}

std::pair<int32_t, size_t> AddedTokens::Trie::longest(std::string_view text, size_t at) const {
  std::pair<int32_t, size_t> best{-1, 0};
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge =
        edges_.find((static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const int32_t token = token_of_[static_cast<size_t>(node)];
    if (token >= 0) best = {token, i + 1 - at};
  }
  return best;
}

AddedTokens::AddedTokens(const std::vector<AddedTokenSpec>& tokens) {
  for (const AddedTokenSpec& token : tokens) {
    Trie& trie = token.normalized ? normalized_ : raw_;
    trie.insert(token.content, static_cast<int32_t>(tokens_.size()));
    tokens_.push_back({token.id, token.lstrip, token.rstrip, token.single_word});
  }
}

Result<void> AddedTokens::split_with(const Trie& trie, std::string_view text,
                                     const Sink& sink) const {
  size_t done = 0;  // everything before went to the sink
  for (size_t at = 0; at < text.size() && !trie.empty();) {
    const auto [index, length] =
        trie.may_start(text[at]) ? trie.longest(text, at) : std::pair<int32_t, size_t>{-1, 0};
    if (index < 0) {
      ++at;
      continue;
    }
    const Token& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + length;
    at = end;  // matches do not overlap, whether they count or not
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    // White space that the token before has taken stays there.
    if (token.lstrip) begin = std::max(done, begin - white_space_at_end(text.substr(0, begin)));
    if (token.rstrip) end += white_space_at_start(text.substr(end));
    if (done < begin) LS_TRY_VOID(sink(-1, text.substr(done, begin - done)));
    LS_TRY_VOID(sink(token.id, text.substr(begin, end - begin)));
    done = end;
  }
  if (done < text.size()) return sink(-1, text.substr(done));
  return {};
}

Result<void> AddedTokens::split(std::string_view text, const Sink& sink) const {
  return split_with(raw_, text, [&](int32_t id, std::string_view part) -> Result<void> {
    if (id >= 0) return sink(id, part);
    return split_with(normalized_, part, sink);
  });
}

}  // namespace longshore::text
