#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include "base/file.h"
#include "base/output_file.h"
#include "bench/moe_tuning.h"
#include "checkpoint/config.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "kernels/moe_config.h"
#include "kernels/moe_folder.h"

namespace longshore::cli {
namespace {

constexpr const char* kW8A16 = "fp8_w8a16";
constexpr const char* kW8A8 = "fp8_w8a8";

constexpr int64_t kLeastScratch = int64_t{256} << 20;

struct Flags {
  std::string model;
  std::string device = "cuda";
  std::string folder = "auto";
  bench::MoeShape shape;
  int64_t tp = 1;
  std::vector<std::string> dtypes = {kW8A16, kW8A8};
  std::vector<int64_t> tokens = {1,  2,   4,   8,   16,   24,   32,   48,   64,
                                 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096};
};

// The model's sizes, a device's part of them.
Result<bench::MoeShape> shape_of(const Flags& flags) {
  bench::MoeShape shape = flags.shape;
  if (!flags.model.empty()) {
    LS_TRY(const GlmConfig config, load_config(flags.model));
    shape = {.hidden = config.hidden_size,
             .intermediate = config.moe_intermediate_size,
             .experts = config.num_experts,
             .top_k = config.experts_per_token};
  }
  if (shape.intermediate % flags.tp != 0)
    return fail(ErrorKind::kUsage, "--tp {}: {} rows of an expert do not divide", flags.tp,
                shape.intermediate);
  shape.intermediate /= flags.tp;
  LS_TRY_VOID(shape.validate());
  return shape;
}

// Before anything is measured.
Result<void> prepare(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    return fail(ErrorKind::kIo, "{}: cannot make the folder: {}", folder.string(), error.message());
  LS_TRY(const OutputFile probe, OutputFile::create((folder / "probe").string()));  // goes again
  return {};
}

// What the file says of numbers of tokens that are not measured now.
Result<kernels::MoeTable> entries_of(const std::string& path) {
  if (!std::filesystem::exists(path)) return kernels::MoeTable();
  LS_TRY(const std::string text, read_file(path, int64_t{1} << 20, ErrorKind::kIo));
  return kernels::parse_moe_config(text, path);
}

Result<void> write(const std::filesystem::path& folder, const bench::MoeTimes& times) {
  const std::string path = (folder / times.file_name).string();
  LS_TRY(kernels::MoeTable kept, entries_of(path));
  const std::string text = times.json(std::move(kept));
  LS_TRY(OutputFile file, OutputFile::create(path));
  LS_TRY_VOID(file.write(text.data(), text.size()));
  LS_TRY_VOID(file.commit());
  fmt::print("{}wrote {}\n\n", times.table(), path);
  (void)std::fflush(stdout);
  return {};
}

Result<void> run(const Flags& flags) {
  LS_TRY(const std::optional<int> ordinal, session::cuda_ordinal(flags.device));
  if (!ordinal)
    return fail(ErrorKind::kUsage, "--device {}: tune measures a GPU's kernels: use cuda or cuda:N",
                flags.device);
  LS_TRY(const bench::MoeShape shape, shape_of(flags));
  std::vector<int64_t> tokens = flags.tokens;
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  const bool keep = flags.folder != "none";
  const std::string folder = flags.folder == "auto" ? kernels::shipped_moe_configs() : flags.folder;
  if (keep) LS_TRY_VOID(prepare(folder));
  // So much that no call of the usual sizes is computed in pieces.
  const int64_t routes = tokens.back() * (shape.top_k + 1);
  const int64_t scratch = kLeastScratch + routes * 8 * (shape.hidden + shape.intermediate);
  LS_TRY(const std::unique_ptr<kernels::Backend> backend,
         kernels::make_cuda_backend({.device = *ordinal, .scratch_bytes = scratch}));
  LS_TRY(bench::MoeTuner tuner, bench::MoeTuner::create(*backend, shape, tokens.back()));
  // With the shared expert among them, as where all are on the device, and without.
  for (const bool joined : {true, false}) {
    for (const std::string& dtype : flags.dtypes) {
      LS_TRY(const bench::MoeTimes times,
             tuner.measure(joined, dtype == kW8A8, tokens, interrupt_token()));
      if (keep) {
        LS_TRY_VOID(write(folder, times));
      } else {
        fmt::print("{}\n", times.table());
      }
    }
  }
  return {};
}

}  // namespace

Run add_tune(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command.add_option("MODEL,--model,--model-path", flags->model,
                     "take the experts' sizes from this directory's config.json");
  command.add_option("--device", flags->device, "cuda or cuda:N")->capture_default_str();
  command
      .add_option(
          "--moe-config-folder", flags->folder,
          "where the files go, which keep what is not measured now; auto: where serve looks for "
          "them; none: nowhere")
      ->capture_default_str();
  command.add_option("--hidden", flags->shape.hidden, "columns of an expert's gate")
      ->capture_default_str();
  command.add_option("--intermediate", flags->shape.intermediate, "rows of an expert's gate")
      ->capture_default_str();
  command
      .add_option("--experts", flags->shape.experts,
                  "routed experts; a file for one more, the shared one, is made too")
      ->capture_default_str();
  command.add_option("--top-k", flags->shape.top_k, "experts of a token")->capture_default_str();
  command.add_option("--tp-size,--tp", flags->tp, "devices that share an expert's rows: N of them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--dtype", flags->dtypes, "fp8_w8a16 and fp8_w8a8, as files name them")
      ->delimiter(',')
      ->check(CLI::IsMember({kW8A16, kW8A8}))
      ->capture_default_str();
  command.add_option("--batch-size", flags->tokens, "numbers of tokens to measure")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
