#include "text/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "text/json_depth.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

using Object = nlohmann::json;

constexpr int kMaxDepth = 32;
// Far beyond any vocabulary; keeps tables that are indexed by id small.
constexpr int64_t kMaxId = 1 << 24;
// The pattern of ByteLevel with use_regex, GPT-2's.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string shown(std::string_view text) {
  std::string out;
  append_utf8_lossy(out, text.substr(0, 80), true);
  for (char& c : out) {
    if (static_cast<uint8_t>(c) < 0x20) c = ' ';
  }
  return out;
}

// One object of the file with its path, for errors such as "tokenizer.json: model.merges must be an
// array".
class Node {
 public:
  Node(const Object& value, const std::string& where, std::string path)
      : value_(value), where_(where), path_(std::move(path)) {}

  [[nodiscard]] const Object& value() const { return value_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string key_path(const char* key) const {
    return path_.empty() ? key : path_ + "." + key;
  }

  [[nodiscard]] tl::unexpected<Error> error(const char* key, const std::string& what) const {
    return fail(ErrorKind::kModel, "{}: {} {}", where_, key_path(key), what);
  }

  // Null when the key is absent or null.
  [[nodiscard]] const Object* find(const char* key) const {
    const auto entry = value_.find(key);
    return entry == value_.end() || entry->is_null() ? nullptr : &*entry;
  }

  [[nodiscard]] Result<bool> flag(const char* key, bool absent) const {
    const Object* entry = find(key);
    if (entry == nullptr) return absent;
    if (!entry->is_boolean()) return error(key, "must be true or false");
    return entry->get<bool>();
  }

  [[nodiscard]] Result<std::string> text(const char* key) const {
    const Object* entry = find(key);
    if (entry == nullptr || !entry->is_string()) return error(key, "must be a string");
    return entry->get<std::string>();
  }

  [[nodiscard]] Result<Node> object(const char* key) const {
    const Object* entry = find(key);
    if (entry == nullptr || !entry->is_object()) return error(key, "must be an object");
    return Node(*entry, where_, key_path(key));
  }

  [[nodiscard]] Result<const Object*> array(const char* key) const {
    const Object* entry = find(key);
    if (entry == nullptr || !entry->is_array()) return error(key, "must be an array");
    return entry;
  }

  // A flag that has to have one value.
  [[nodiscard]] Result<void> require_flag(const char* key, bool absent, bool wanted) const {
    LS_TRY(const bool value, flag(key, absent));
    if (value == wanted) return {};
    return error(key, fmt::format("is {}: not supported, only {} is", value, wanted));
  }

  // A key that has to be absent, null, "" or false.
  [[nodiscard]] Result<void> require_unset(const char* key) const {
    const Object* entry = find(key);
    if (entry == nullptr || *entry == "" || *entry == false) return {};
    return error(key, "is set: not supported");
  }

 private:
  const Object& value_;
  const std::string& where_;
  std::string path_;
};

Result<int32_t> checked_id(const Object& value, const Node& node, const char* key,
                           std::string_view token) {
  const auto bad = [&](std::string_view what) {
    return node.error(key, fmt::format("'{}': {}", shown(token), what));
  };
  if (!value.is_number_integer()) return bad("its id must be an integer");
  if (value.is_number_unsigned() && value.get<uint64_t>() >= static_cast<uint64_t>(kMaxId)) {
    return bad(fmt::format("its id is out of range (at least {})", kMaxId));
  }
  const auto id = value.get<int64_t>();
  if (id < 0) return bad(fmt::format("its id {} is negative", id));
  return static_cast<int32_t>(id);
}

std::array<int, 0x144> make_alphabet() {
  std::array<int, 0x144> byte_of{};
  byte_of.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    byte_of[static_cast<size_t>(printable ? byte : next++)] = byte;
  }
  return byte_of;
}

// -- added tokens --

Result<AddedTokenSpec> read_added_token(const Node& node) {
  AddedTokenSpec token;
  LS_TRY(token.content, node.text("content"));
  const Object* id = node.find("id");
  if (id == nullptr) return node.error("id", "is missing");
  LS_TRY(token.id, checked_id(*id, node, "id", token.content));
  LS_TRY(token.special, node.flag("special", false));
  LS_TRY(token.lstrip, node.flag("lstrip", false));
  LS_TRY(token.rstrip, node.flag("rstrip", false));
  LS_TRY(token.single_word, node.flag("single_word", false));
  LS_TRY(token.normalized, node.flag("normalized", !token.special));
  if (token.content.empty()) return node.error("content", "is empty");
  return token;
}

Result<void> read_added_tokens(const Node& root, const std::string& where, TokenizerSpec& spec) {
  if (root.find("added_tokens") == nullptr) return {};
  LS_TRY(const Object* list, root.array("added_tokens"));
  std::unordered_set<std::string> contents;
  std::unordered_set<int32_t> ids;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("added_tokens[{}]", i);
    if (!(*list)[i].is_object()) {
      return root.error(path.c_str(), "must be an object");
    }
    const Node node((*list)[i], where, path);
    LS_TRY(AddedTokenSpec token, read_added_token(node));
    if (!contents.insert(token.content).second) {
      return node.error("content", fmt::format("'{}' occurs twice", shown(token.content)));
    }
    if (!ids.insert(token.id).second) {
      return node.error("id",
                        fmt::format("{} occurs twice ('{}')", token.id, shown(token.content)));
    }
    spec.added_tokens.push_back(std::move(token));
  }
  return {};
}

// -- model --

using TokenIds = std::unordered_map<std::string, int32_t>;

// The ids of both kinds of tokens: one text, one id, and the other way round.
Result<void> check_ids(const Node& model, const TokenizerSpec& spec, const TokenIds& ids) {
  std::unordered_map<int32_t, std::string_view> token_of;
  for (const auto& [token, id] : spec.vocab) {
    const auto [entry, fresh] = token_of.emplace(id, token);
    if (fresh) continue;
    return model.error("vocab", fmt::format("'{}' and '{}' have the same id {}",
                                            shown(entry->second), shown(token), id));
  }
  for (const AddedTokenSpec& token : spec.added_tokens) {
    const auto in_vocab = ids.find(token.content);
    if (in_vocab != ids.end() && in_vocab->second != token.id) {
      return model.error("vocab", fmt::format("'{}' has id {}, but {} in added_tokens",
                                              shown(token.content), in_vocab->second, token.id));
    }
    const auto same_id = token_of.find(token.id);
    if (same_id != token_of.end() && same_id->second != token.content) {
      return model.error(
          "vocab", fmt::format("'{}' has id {}, as '{}' in added_tokens", shown(same_id->second),
                               token.id, shown(token.content)));
    }
  }
  return {};
}

Result<TokenIds> read_vocab(const Node& model, TokenizerSpec& spec) {
  LS_TRY(const Node vocab, model.object("vocab"));
  if (vocab.value().empty()) return model.error("vocab", "is empty");
  std::unordered_set<std::string_view> added;
  for (const AddedTokenSpec& token : spec.added_tokens) added.insert(token.content);
  TokenIds ids;
  for (const auto& [token, value] : vocab.value().items()) {
    LS_TRY(const int32_t id, checked_id(value, model, "vocab", token));
    std::string bytes;
    if (byte_level_bytes(token, bytes)) {
      spec.vocab_bytes.emplace_back(std::move(bytes), id);
    } else if (!added.contains(token)) {
      return model.error(
          "vocab",
          fmt::format("'{}' has a character outside the byte-level alphabet", shown(token)));
    }
    spec.vocab.emplace_back(token, id);
    ids.emplace(token, id);
  }
  LS_TRY_VOID(check_ids(model, spec, ids));
  return ids;
}

// ["a", "b"] or "a b".
std::optional<std::pair<std::string, std::string>> merge_parts(const Object& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (!merge.is_string()) return std::nullopt;
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return std::nullopt;
  }
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

Result<void> read_merges(const Node& model, const TokenIds& ids, TokenizerSpec& spec) {
  LS_TRY(const Object* list, model.array("merges"));
  spec.merges.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const auto parts = merge_parts((*list)[i]);
    const std::string key = fmt::format("merges[{}]", i);
    if (!parts) return model.error(key.c_str(), "must be a pair of tokens");
    const auto& [left, right] = *parts;
    std::array<int32_t, 3> found{};
    const std::array<std::string, 3> tokens = {left, right, left + right};
    for (size_t part = 0; part < tokens.size(); ++part) {
      const auto entry = ids.find(tokens[part]);
      if (entry == ids.end()) {
        return model.error(key.c_str(),
                           fmt::format("('{}', '{}'): '{}' is not in model.vocab", shown(left),
                                       shown(right), shown(tokens[part])));
      }
      found[part] = entry->second;
    }
    spec.merges.push_back({found[0], found[1], found[2]});
  }
  return {};
}

Result<void> read_model(const Node& root, TokenizerSpec& spec) {
  LS_TRY(const Node model, root.object("model"));
  if (model.find("type") != nullptr) {
    LS_TRY(const std::string type, model.text("type"));
    if (type != "BPE")
      return model.error("type", fmt::format("'{}' is not supported, only BPE is", shown(type)));
  }
  if (const Object* dropout = model.find("dropout"); dropout != nullptr && *dropout != 0.0) {
    return model.error("dropout", "is set: not supported");
  }
  for (const char* key : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                          "fuse_unk", "byte_fallback"}) {
    LS_TRY_VOID(model.require_unset(key));
  }
  LS_TRY(spec.ignore_merges, model.flag("ignore_merges", false));
  LS_TRY(const TokenIds ids, read_vocab(model, spec));
  return read_merges(model, ids, spec);
}

// -- pre-tokenizer --

Result<void> read_split(const Node& node, TokenizerSpec& spec) {
  LS_TRY(const Node pattern, node.object("pattern"));
  if (pattern.find("Regex") == nullptr) return node.error("pattern", "must be a Regex");
  LS_TRY(std::string regex, pattern.text("Regex"));
  LS_TRY(const std::string behavior, node.text("behavior"));
  if (behavior != "Isolated") {
    return node.error("behavior",
                      fmt::format("'{}' is not supported, only Isolated is", shown(behavior)));
  }
  LS_TRY_VOID(node.require_flag("invert", false, false));
  spec.split_patterns.push_back(std::move(regex));
  return {};
}

Result<void> read_byte_level(const Node& node, TokenizerSpec& spec) {
  LS_TRY_VOID(node.require_flag("add_prefix_space", true, false));
  LS_TRY(const bool use_regex, node.flag("use_regex", true));
  if (use_regex) spec.split_patterns.emplace_back(kGpt2Pattern);
  return {};
}

Result<void> read_step(const Node& step, bool last, TokenizerSpec& spec) {
  LS_TRY(const std::string type, step.text("type"));
  if (type == "Split" && !last) return read_split(step, spec);
  if (type == "ByteLevel" && last) return read_byte_level(step, spec);
  return step.error(
      "type",
      fmt::format("'{}' is not supported here: Split steps and a last ByteLevel are", shown(type)));
}

Result<void> read_pre_tokenizer(const Node& root, const std::string& where, TokenizerSpec& spec) {
  LS_TRY(const Node node, root.object("pre_tokenizer"));
  LS_TRY(const std::string type, node.text("type"));
  if (type != "Sequence") return read_step(node, true, spec);
  LS_TRY(const Object* steps, node.array("pretokenizers"));
  if (steps->empty()) return node.error("pretokenizers", "is empty");
  for (size_t i = 0; i < steps->size(); ++i) {
    const std::string path = fmt::format("pre_tokenizer.pretokenizers[{}]", i);
    if (!(*steps)[i].is_object()) return root.error(path.c_str(), "must be an object");
    LS_TRY_VOID(read_step(Node((*steps)[i], where, path), i + 1 == steps->size(), spec));
  }
  return {};
}

Result<void> read_decoder(const Node& root) {
  LS_TRY(const Node node, root.object("decoder"));
  LS_TRY(const std::string type, node.text("type"));
  if (type == "ByteLevel") return {};
  return node.error("type", fmt::format("'{}' is not supported, only ByteLevel is", shown(type)));
}

Result<void> read_normalizer(const Node& root) {
  if (root.find("normalizer") == nullptr) return {};
  LS_TRY(const Node node, root.object("normalizer"));
  LS_TRY(const std::string type, node.text("type"));
  return node.error("type", fmt::format("'{}' is not supported, only null is", shown(type)));
}

// Only what adds no tokens to a text.
Result<void> read_post_processor(const Node& node, const std::string& where,
                                 const std::string& path, int depth = 0) {
  LS_TRY(const std::string type, node.text("type"));
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") {
    LS_TRY(const Object* pieces, node.array("single"));
    for (const Object& piece : *pieces) {
      if (piece.is_object() && piece.contains("Sequence")) continue;
      return node.error("single", "adds special tokens to every text: not supported");
    }
    return {};
  }
  if (type != "Sequence" || depth > 0) {
    return node.error("type",
                      fmt::format("'{}' is not supported here, only ByteLevel is", shown(type)));
  }
  LS_TRY(const Object* steps, node.array("processors"));
  for (size_t i = 0; i < steps->size(); ++i) {
    const std::string step = fmt::format("{}.processors[{}]", path, i);
    if (!(*steps)[i].is_object())
      return node.error(fmt::format("processors[{}]", i).c_str(), "must be an object");
    LS_TRY_VOID(read_post_processor(Node((*steps)[i], where, step), where, step, depth + 1));
  }
  return {};
}

Result<void> read_surroundings(const Node& root, const std::string& where) {
  for (const char* key : {"truncation", "padding"}) {
    if (root.find(key) != nullptr) return root.error(key, "is set: not supported, only null is");
  }
  if (root.find("post_processor") == nullptr) return {};
  LS_TRY(const Node node, root.object("post_processor"));
  return read_post_processor(node, where, "post_processor");
}

}  // namespace

bool byte_level_bytes(std::string_view token, std::string& bytes) {
  static const std::array<int, 0x144> kByteOf = make_alphabet();
  bytes.clear();
  for (size_t at = 0; at < token.size();) {
    const Utf8Step step = utf8_step(token, at);
    if (step.status != Utf8Step::Status::kValid || step.code_point >= kByteOf.size()) return false;
    const int byte = kByteOf[step.code_point];
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    at += step.length;
  }
  return true;
}

Result<TokenizerSpec> parse_tokenizer_json(std::string_view json, const std::string& where) {
  if (nests_deeper(json, kMaxDepth)) {
    return fail(ErrorKind::kModel, "{}: the JSON nests deeper than {} levels", where, kMaxDepth);
  }
  Object document;
  try {
    document = Object::parse(json);
  } catch (const Object::parse_error& e) {
    return fail(ErrorKind::kModel, "{}: not valid JSON at byte {}", where, e.byte);
  } catch (const Object::exception&) {
    return fail(ErrorKind::kModel, "{}: not valid JSON", where);
  }
  if (!document.is_object()) return fail(ErrorKind::kModel, "{}: must be a JSON object", where);
  const Node root(document, where, "");
  TokenizerSpec spec;
  LS_TRY_VOID(read_normalizer(root));
  LS_TRY_VOID(read_pre_tokenizer(root, where, spec));
  LS_TRY_VOID(read_decoder(root));
  // encode() adds and cuts nothing.
  LS_TRY_VOID(read_surroundings(root, where));
  LS_TRY_VOID(read_added_tokens(root, where, spec));
  LS_TRY_VOID(read_model(root, spec));
  return spec;
}

}  // namespace longshore::text
