#include "text/detokenizer.h"

#include <utility>

#include "text/utf8.h"

namespace longshore::text {

StreamDetokenizer::StreamDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDetokenizer::push(int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_.append(tokenizer_.bytes(id));
  std::string out;
  pending_.erase(0, append_utf8_lossy(out, pending_, false));
  return out;
}

std::string StreamDetokenizer::finish() {
  std::string out;
  append_utf8_lossy(out, std::exchange(pending_, {}), true);
  return out;
}

}  // namespace longshore::text
