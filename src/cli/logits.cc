#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/score.h"

namespace longshore::cli {
namespace {

using nlohmann::json;

struct Flags {
  ModelFlags model;
  std::string ids;
  std::string out;
  int64_t last = -1;
  bool mtp = false;
};

Result<std::vector<int32_t>> read_ids(const std::string& path) {
  LS_TRY(const std::string text, read_input(path));
  const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) return fail(ErrorKind::kUsage, "{}: not a JSON array of token ids", path);
  std::vector<int32_t> ids;
  for (const json& id : list) {
    const std::optional<int32_t> value = token_id(id);
    if (!value) return fail(ErrorKind::kUsage, "{}: {} is not a token id", path, id.dump());
    ids.push_back(*value);
  }
  return ids;
}

template <typename T>
SafetensorsTensor tensor(std::string name, DType dtype, std::vector<int64_t> shape,
                         const std::vector<T>& values) {
  return {std::move(name), dtype, std::move(shape), std::as_bytes(std::span(values))};
}

Result<void> run(const Flags& flags) {
  LS_TRY(const std::vector<int32_t> ids, read_ids(flags.ids));
  LS_TRY(session::LoadOptions options, flags.model.load_options());
  if (options.offload_meta) {
    return fail(ErrorKind::kUsage,
                "--offload-mode meta has no expert weights: there are no logits to write");
  }
  options.with_text = false;
  options.with_mtp = flags.mtp;
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  engine::ScoreRequest request;
  request.ids = ids;
  request.last = flags.last;
  request.chunk = loaded->engine->options().prefill_budget;
  request.mtp = loaded->mtp ? &*loaded->mtp : nullptr;
  auto scored = engine::score(*loaded->model, loaded->layout, request, interrupt_token());
  if (!scored && scored.error().kind == ErrorKind::kModel) {
    return fail(ErrorKind::kModel, "{}: {}", loaded->checkpoint->where(), scored.error().message);
  }
  LS_TRY(const engine::Scores scores, std::move(scored));
  const int64_t vocab = loaded->checkpoint->config().vocab_size;
  std::vector<SafetensorsTensor> tensors;
  tensors.push_back(tensor("ids", DType::kI32, {static_cast<int64_t>(ids.size())}, ids));
  tensors.push_back(tensor("logits", DType::kF32, {scores.rows, vocab}, scores.logits));
  if (flags.mtp)
    tensors.push_back(tensor("mtp_logits", DType::kF32, {scores.rows, vocab}, scores.mtp_logits));
  return write_safetensors(flags.out, tensors);
}

}  // namespace

Run add_logits(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  command
      .add_option("--ids", flags->ids, "file with a JSON array of token ids; - for standard input")
      ->required();
  command
      .add_option("--out", flags->out,
                  "safetensors file to write: ids, logits and, with --mtp, mtp_logits")
      ->required();
  command.add_option("--last", flags->last, "only the last P positions; -1: all")
      ->capture_default_str();
  command.add_flag("--mtp", flags->mtp,
                   "run the MTP layer too; after the last position it sees the greedy choice");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
