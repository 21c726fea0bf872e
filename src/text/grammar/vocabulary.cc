#include "text/grammar/vocabulary.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "text/grammar/grammar.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

// The number of characters of a plain token; 0 of any other.
uint32_t plain_length(std::string_view token) {
  uint32_t characters = 0;
  for (size_t at = 0; at < token.size(); ++characters) {
    const Utf8Step step = utf8_step(token, at);
    if (step.status != Utf8Step::Status::kValid || !is_plain(step.code_point)) return 0;
    at += step.length;
  }
  return characters;
}

}  // namespace

std::vector<std::string> tokens_of(const Tokenizer& tokenizer) {
  std::vector<std::string> tokens(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    std::string& token = tokens[static_cast<size_t>(id)];
    const std::string_view bytes = tokenizer.bytes(id);
    if (bytes.empty() || tokenizer.is_special(id)) continue;
    // The byte alone, which no text has, would pass for the mark of an added token.
    if (bytes.find(static_cast<char>(kAddedToken)) != std::string_view::npos) continue;
    if (tokenizer.is_added(id)) token += static_cast<char>(kAddedToken);
    token += bytes;
  }
  return tokens;
}

Vocabulary::Vocabulary(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {
  build();
  find_plain();
}

void Vocabulary::build() {
  for (int32_t id = 0; id < size(); ++id) {
    if (bytes(id).empty()) continue;
    ids_.push_back(id);
    longest_ = std::max(longest_, static_cast<uint32_t>(bytes(id).size()));
  }
  LS_CHECK_MSG(longest_ < UINT16_MAX, "a token has {} bytes", longest_);
  std::sort(ids_.begin(), ids_.end(), [&](int32_t a, int32_t b) {
    const int order = bytes(a).compare(bytes(b));
    return order != 0 ? order < 0 : a < b;
  });
  nodes_.push_back({0, 0, 0, 0});
  std::vector<uint32_t> path = {0};  // the nodes from the root to the last one
  std::string_view before;
  const auto close_to = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back())
      nodes_[path.back()].end = static_cast<uint32_t>(nodes_.size());
  };
  for (uint32_t i = 0; i < ids_.size(); ++i) {
    const std::string_view token = bytes(ids_[i]);
    const auto [a, b] = std::mismatch(before.begin(), before.end(), token.begin(), token.end());
    close_to(static_cast<size_t>(a - before.begin()));
    for (size_t depth = path.size(); depth <= token.size(); ++depth) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      // A node on the way has no tokens: its first one is the next node's.
      nodes_.push_back(
          {0, i, static_cast<uint16_t>(depth), static_cast<uint8_t>(token[depth - 1])});
    }
    before = token;
  }
  close_to(0);
  nodes_[0].end = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), 0, 0});
}

void Vocabulary::find_plain() {
  std::vector<uint32_t> lengths(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) lengths[i] = plain_length(tokens_[i]);
  const uint32_t most = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  plain_.assign(most + 1, std::vector<uint64_t>((tokens_.size() + 63) / 64, 0));
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (lengths[i] == 0) continue;
    for (uint32_t length = lengths[i]; length <= most; ++length)
      plain_[length][i / 64] |= uint64_t{1} << (i % 64);
  }
  // Which nodes lead to a token that is not plain.
  const std::span<const Node> all = nodes();
  std::vector<bool> kept(all.size(), false);
  std::vector<uint32_t> path;
  for (uint32_t node = 0; node < all.size(); ++node) {
    path.resize(all[node].depth);
    path.push_back(node);
    for (const int32_t id : ids_of(node)) {
      if (lengths[static_cast<size_t>(id)] != 0) continue;
      for (size_t i = path.size(); i > 0 && !kept[path[i - 1]]; --i) kept[path[i - 1]] = true;
    }
  }
  kept[0] = true;
  std::vector<uint32_t> before(all.size() + 1, 0);  // kept nodes before each
  for (size_t i = 0; i < all.size(); ++i) before[i + 1] = before[i] + (kept[i] ? 1 : 0);
  for (uint32_t node = 0; node < all.size(); ++node) {
    if (!kept[node]) continue;
    others_.push_back({before[all[node].end], node, all[node].depth, all[node].byte});
  }
}

}  // namespace longshore::text
