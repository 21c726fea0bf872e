#include "text/split_regex.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/check.h"
#include "text/unicode_stand_ins.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

// Enough for a linear scan over any text; a pattern that needs more than this for one match is
// exponential or quadratic.
constexpr uint32_t kMinMatchLimit = 10'000'000;
constexpr size_t kMatchLimitPerByte = 16;
constexpr uint32_t kHeapLimitKib = 1'000'000;

// Walks a pattern and names the first construct whose meaning differs between Oniguruma (Ruby's
// syntax) and PCRE2: \w \b (other sets), \h (hex digit or blank), ^ $ (always per line in Ruby),
// {n}+ (not possessive in Ruby), nested classes and &&, properties other than general categories
// (no stand-ins keep them).
class DialectCheck {
 public:
  explicit DialectCheck(std::string_view pattern) : pattern_(pattern) {}

  // Empty: all is well.
  std::string run() {
    while (problem_.empty() && at_ < pattern_.size()) step();
    return std::move(problem_);
  }

 private:
  [[nodiscard]] std::string_view rest() const { return pattern_.substr(at_); }

  void refuse(std::string_view construct) { problem_ = std::string(construct); }

  void step() {
    const char c = pattern_[at_];
    if (c == '\\') return escape();
    if (c == '[') return open_class();
    if (c == ']' && in_class_) in_class_ = false;
    if (in_class_ && rest().starts_with("&&")) return refuse("&&");
    if (!in_class_) {
      if (c == '(' && rest().starts_with("(?")) return group();
      if (c == '^' || c == '$' || c == '.') return refuse(std::string_view(&pattern_[at_], 1));
      if (rest().starts_with("}+")) return refuse("}+");
    }
    ++at_;
  }

  void open_class() {
    if (in_class_) return refuse("[ inside a class");
    in_class_ = true;
    at_ += rest().starts_with("[^") ? 2 : 1;
    // Both engines read a ] in first place differently from one another; it has to be escaped.
    if (at_ < pattern_.size() && pattern_[at_] == ']') refuse("[]");
  }

  void group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (rest().starts_with(known)) {
        at_ += known.size();
        return;
      }
    }
    refuse(rest().substr(0, 4));
  }

  void escape() {
    const std::string_view two = rest().substr(0, 2);
    if (two.size() < 2) return refuse("\\ at the end");
    const char c = two[1];
    if (c == 'p' || c == 'P') return property();
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const bool other = static_cast<uint8_t>(c) >= 0x80;
    if ((letter && std::string_view("sSdDrntf").find(c) == std::string_view::npos) || other) {
      return refuse(two);
    }
    at_ += 2;
  }

  void property() {
    static constexpr std::array<std::string_view, 37> kCategories = {
        "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
        "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
        "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Cn", "Cs"};
    const size_t close = rest().find('}');
    if (rest().substr(2, 1) != "{" || close == std::string_view::npos) {
      return refuse(rest().substr(0, 3));
    }
    const std::string_view name = rest().substr(3, close - 3);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) {
      return refuse(rest().substr(0, close + 1));
    }
    at_ += close + 1;
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string problem_;
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

}  // namespace

struct SplitRegex::Scratch::Impl {
  // Only the bounds of the whole match are asked for.
  std::unique_ptr<pcre2_match_data, FreeMatchData> match{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context{
      pcre2_match_context_create(nullptr)};
  std::string copy;  // the text with stand-ins
};

SplitRegex::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {
  LS_CHECK(impl_->match && impl_->context);
  pcre2_set_heap_limit(impl_->context.get(), kHeapLimitKib);
}
SplitRegex::Scratch::~Scratch() = default;

struct SplitRegex::Impl {
  std::unique_ptr<pcre2_code, FreeCode> code;
  bool jit = false;
  std::string where;

  // PCRE2's result: negative for no match or an error.
  int match(std::string_view text, size_t from, Scratch::Impl& scratch) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit) {
      result = pcre2_jit_match(code.get(), subject, text.size(), from, 0, scratch.match.get(),
                               scratch.context.get());
    }
    // The compiled code has a small fixed stack; the interpreter has the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result =
          pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_JIT | PCRE2_NO_UTF_CHECK,
                      scratch.match.get(), scratch.context.get());
    }
    return result;
  }
};

SplitRegex::SplitRegex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SplitRegex::~SplitRegex() = default;
SplitRegex::SplitRegex(SplitRegex&&) noexcept = default;
SplitRegex& SplitRegex::operator=(SplitRegex&&) noexcept = default;

Result<SplitRegex> SplitRegex::compile(std::string_view pattern, const std::string& where) {
  if (const std::string construct = DialectCheck(pattern).run(); !construct.empty()) {
    return fail(ErrorKind::kModel, "{}: the pattern uses '{}', which is not supported", where,
                construct);
  }
  auto impl = std::make_unique<Impl>();
  impl->where = where;
  int error = 0;
  size_t offset = 0;
  impl->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                 nullptr));
  if (!impl->code) {
    return fail(ErrorKind::kModel, "{}: the pattern is broken at byte {}: {}", where, offset,
                pcre2_message(error));
  }
  impl->jit = pcre2_jit_compile(impl->code.get(), PCRE2_JIT_COMPLETE) == 0;
  return SplitRegex(std::move(impl));
}

Result<void> SplitRegex::split(std::string_view text, Scratch& scratch,
                               std::vector<size_t>& ends) const {
  Scratch::Impl& state = *scratch.impl_;
  const std::string_view subject = with_stand_ins(text, state.copy) ? state.copy : text;
  const size_t limit = std::max<size_t>(kMinMatchLimit, kMatchLimitPerByte * text.size());
  pcre2_set_match_limit(state.context.get(),
                        static_cast<uint32_t>(std::min<size_t>(limit, UINT32_MAX)));
  size_t piece = 0;  // start of the piece that is not yet appended
  const auto cut = [&](size_t end) {
    if (end > piece) ends.push_back(end);
    piece = end;
  };
  for (size_t from = 0; from < subject.size();) {
    const int result = impl_->match(subject, from, state);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      return fail(ErrorKind::kModel, "{}: splitting failed near byte {} of the text: {}",
                  impl_->where, from, pcre2_message(result));
    }
    const size_t* bounds = pcre2_get_ovector_pointer(state.match.get());
    cut(bounds[0]);
    cut(std::max(bounds[0], bounds[1]));
    from = bounds[1];
    // After an empty match the search goes on one character later.
    if (bounds[1] <= bounds[0]) {
      ++from;
      while (from < subject.size() && (static_cast<uint8_t>(subject[from]) & 0xC0) == 0x80) ++from;
    }
  }
  cut(subject.size());
  return {};
}

bool is_word_character(uint32_t code_point) {
  static const std::unique_ptr<pcre2_code, FreeCode> kWord = [] {
    static constexpr std::string_view kPattern =
        R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])";
    int error = 0;
    size_t offset = 0;
    return std::unique_ptr<pcre2_code, FreeCode>(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
                      PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  }();
  LS_CHECK_MSG(kWord != nullptr, "PCRE2 10.40 or later is needed");
  const std::unique_ptr<pcre2_match_data, FreeMatchData> match(pcre2_match_data_create(1, nullptr));
  std::string character;
  append_utf8(character, stand_in(code_point));
  return pcre2_match(kWord.get(), reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(),
                     0, 0, match.get(), nullptr) >= 0;
}

}  // namespace longshore::text
