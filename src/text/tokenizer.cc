#include "text/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split_regex.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

enum TokenFlag : uint8_t { kAdded = 1, kSpecial = 2 };

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return fail(ErrorKind::kModel, "{}: cannot be opened; is it the model's folder?", path);
  std::ostringstream content;
  content << file.rdbuf();
  if (!file) return fail(ErrorKind::kModel, "{}: cannot be read: check the disk", path);
  return std::move(content).str();
}

}  // namespace

struct Tokenizer::Impl {
  struct Scratch {
    SplitRegex::Scratch regex;
    Bpe::Scratch bpe;
    std::vector<std::vector<size_t>> ends;  // by depth of the split
  };

  Impl(const TokenizerSpec& spec, std::vector<SplitRegex> split_steps)
      : bpe(spec.vocab_bytes, spec.merges, spec.ignore_merges),
        added(spec.added_tokens),
        splits(std::move(split_steps)) {}

  void fill_tables(const TokenizerSpec& spec) {
    for (const auto& [token, id] : spec.vocab) set_bytes(id, token);
    for (const AddedTokenSpec& token : spec.added_tokens) set_bytes(token.id, token.content);
    for (const auto& token : bytes)
      max_token_bytes = std::max(max_token_bytes, static_cast<int64_t>(token.size()));
    for (const AddedTokenSpec& token : spec.added_tokens) {
      if (token.lstrip || token.rstrip) max_token_bytes = std::numeric_limits<int64_t>::max();
    }
    flags.resize(bytes.size(), 0);
    for (const AddedTokenSpec& token : spec.added_tokens) {
      flags[static_cast<size_t>(token.id)] =
          static_cast<uint8_t>(kAdded | (token.special ? kSpecial : 0));
      ids.emplace(token.content, token.id);
    }
    for (const auto& [token, id] : spec.vocab) ids.emplace(token, id);
  }

  // The decoder maps added tokens as all others: through the alphabet if every character belongs to
  // it.
  void set_bytes(int32_t id, const std::string& token) {
    if (static_cast<size_t>(id) >= bytes.size()) bytes.resize(static_cast<size_t>(id) + 1);
    std::string& target = bytes[static_cast<size_t>(id)];
    if (!byte_level_bytes(token, target)) target = token;
  }

  [[nodiscard]] bool known(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < bytes.size();
  }

  // Splits `text` by the steps from `step` on and encodes the pieces.
  Result<void> encode_text(std::string_view text, size_t step, Scratch& scratch,
                           std::vector<int32_t>& out) const {
    if (step == splits.size()) {
      bpe.encode(text, scratch.bpe, out);
      return {};
    }
    std::vector<size_t>& ends = scratch.ends[step];
    ends.clear();
    LS_TRY_VOID(splits[step].split(text, scratch.regex, ends));
    size_t begin = 0;
    for (const size_t end : ends) {
      LS_TRY_VOID(encode_text(text.substr(begin, end - begin), step + 1, scratch, out));
      begin = end;
    }
    return {};
  }

  Bpe bpe;
  AddedTokens added;
  std::vector<SplitRegex> splits;
  std::vector<std::string> bytes;  // by id
  int64_t max_token_bytes = 1;
  std::vector<uint8_t> flags;  // by id
  std::unordered_map<std::string, int32_t> ids;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Result<Tokenizer> Tokenizer::load(const std::string& path) {
  LS_TRY(const std::string json, read_file(path));
  return parse(json, path);
}

Result<Tokenizer> Tokenizer::parse(std::string_view json, const std::string& where) {
  // One remedy for all that can be wrong with the file.
  const auto remedy = [](Error error) {
    error.message += "; download the model's own tokenizer.json again";
    return error;
  };
  LS_TRY(const TokenizerSpec spec, parse_tokenizer_json(json, where).map_error(remedy));
  std::vector<SplitRegex> splits;
  for (const std::string& pattern : spec.split_patterns) {
    LS_TRY(SplitRegex split,
           SplitRegex::compile(pattern, where + ": pre_tokenizer").map_error(remedy));
    splits.push_back(std::move(split));
  }
  auto impl = std::make_unique<Impl>(spec, std::move(splits));
  impl->fill_tables(spec);
  return Tokenizer(std::move(impl));
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text) const {
  if (const auto invalid = find_invalid_utf8(text)) {
    return fail(ErrorKind::kUsage, "the text is not valid UTF-8: byte {}", *invalid);
  }
  std::vector<int32_t> out;
  out.reserve(text.size() / 4 + 1);
  Impl::Scratch scratch;
  scratch.ends.resize(impl_->splits.size());
  LS_TRY_VOID(impl_->added.split(text, [&](int32_t id, std::string_view part) -> Result<void> {
    if (id < 0) return impl_->encode_text(part, 0, scratch, out);
    out.push_back(id);
    return {};
  }));
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string all;
  for (const int32_t id : ids) {
    if (!skip_special || !is_special(id)) all.append(bytes(id));
  }
  std::string out;
  out.reserve(all.size());
  append_utf8_lossy(out, all, true);
  return out;
}

std::string_view Tokenizer::bytes(int32_t id) const {
  return impl_->known(id) ? impl_->bytes[static_cast<size_t>(id)] : std::string_view();
}

int64_t Tokenizer::max_token_bytes() const {
  return impl_->max_token_bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  return impl_->known(id) && (impl_->flags[static_cast<size_t>(id)] & kSpecial) != 0;
}

bool Tokenizer::is_added(int32_t id) const {
  return impl_->known(id) && (impl_->flags[static_cast<size_t>(id)] & kAdded) != 0;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  const auto entry = impl_->ids.find(std::string(token));
  if (entry == impl_->ids.end()) return std::nullopt;
  return entry->second;
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(impl_->bytes.size());
}

}  // namespace longshore::text
