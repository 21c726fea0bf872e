#include <iostream>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/standard_input.h"
#include "text/tokenizer.h"

namespace longshore::cli {
namespace {

using nlohmann::json;

Result<std::string> tokenize_line(const text::Tokenizer& tokenizer, const std::string& line,
                                  int64_t number, bool decode) {
  const json value = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (decode) {
    if (!value.is_array())
      return fail(ErrorKind::kUsage, "line {}: not a JSON array of ids", number);
    std::vector<int32_t> ids;
    for (const json& id : value) {
      const std::optional<int32_t> number_of = token_id(id);
      if (!number_of)
        return fail(ErrorKind::kUsage, "line {}: {} is not a token id", number, id.dump());
      if (tokenizer.bytes(*number_of).empty()) {
        return fail(ErrorKind::kUsage, "line {}: {} is no token: the tokenizer has ids up to {}",
                    number, *number_of, tokenizer.vocab_size() - 1);
      }
      ids.push_back(*number_of);
    }
    return json(tokenizer.decode(ids)).dump();
  }
  if (!value.is_string()) return fail(ErrorKind::kUsage, "line {}: not a JSON string", number);
  auto ids = tokenizer.encode(value.get<std::string>());
  if (!ids) return fail(ids.error().kind, "line {}: {}", number, ids.error().message);
  return json(*ids).dump();
}

Result<void> tokenize(const std::string& model, bool decode) {
  LS_TRY(const text::Tokenizer tokenizer, text::Tokenizer::load(model + "/tokenizer.json"));
  std::string line;
  for (int64_t number = 1;; ++number) {
    LS_TRY(const bool more, next_line(line));
    if (!more) return {};
    LS_TRY(const std::string out, tokenize_line(tokenizer, line, number, decode));
    std::cout << out << '\n' << std::flush;
  }
}

}  // namespace

Run add_tokenize(CLI::App& command) {
  struct Flags {
    std::string model;
    bool decode = false;
  };
  auto flags = std::make_shared<Flags>();
  command.add_option("MODEL", flags->model, "model directory")->required();
  command.add_flag("--decode", flags->decode, "JSON arrays of ids in, JSON strings out");
  return [flags] {
    const auto done = tokenize(flags->model, flags->decode);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
