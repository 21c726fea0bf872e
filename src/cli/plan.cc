#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "kernels/backend.h"
#include "model/serving_plan.h"

namespace longshore::cli {
namespace {

struct Flags {
  std::string model;
  std::string synthetic;
  std::string device = "auto";
  std::string kv_cache_dtype = "auto";
  double device_gib = -1;
  double host_gib = -1;
  double wire_gbs = 55;
  double dram_gbs = 100;
  double device_gbs = 3000;
  int64_t context = 32768;
  int64_t chunk = 8192;
  int64_t drafts = 0;
  bool as_json = false;
};

constexpr double kGiB = 1 << 30;

Result<void> check_drafts(const Flags& flags, const GlmConfig& config) {
  if (flags.drafts == 0 || config.num_mtp_layers > 0) return {};
  return fail(ErrorKind::kUsage,
              "{} has no MTP layer (num_nextn_predict_layers is 0): leave out "
              "--speculative-num-steps",
              flags.model.empty() ? flags.synthetic : flags.model);
}

Result<model::ModelBytes> bytes_of(const Flags& flags, DType latents) {
  if (flags.model.empty() == flags.synthetic.empty())
    return fail(ErrorKind::kUsage, "give either MODEL, a directory, or --synthetic SPEC");
  if (flags.model.empty()) {
    LS_TRY(const GlmConfig config, Checkpoint::synthetic_config(flags.synthetic));
    LS_TRY_VOID(check_drafts(flags, config));
    return model::model_bytes(config, latents, flags.drafts);
  }
  LS_TRY(const Checkpoint checkpoint, Checkpoint::open(flags.model));
  if (const auto problems = checkpoint.check_layout(); !problems.empty())
    return fail(ErrorKind::kModel, "{}", problems.front());
  LS_TRY_VOID(check_drafts(flags, checkpoint.config()));
  return model::model_bytes(checkpoint, latents, flags.drafts);
}

// The device's free memory, or what the flag says it is; 0: none.
Result<int64_t> device_bytes(const Flags& flags) {
  if (flags.device_gib >= 0) return static_cast<int64_t>(flags.device_gib * kGiB);
  LS_TRY(const std::optional<int> ordinal, session::cuda_ordinal(flags.device));
  if (flags.device == "cpu") return 0;
  const auto backend =
      kernels::make_cuda_backend({.device = ordinal.value_or(0), .scratch_bytes = 1 << 20});
  if (backend) return (*backend)->memory().available();
  if (ordinal) return tl::unexpected<Error>(backend.error());
  return 0;
}

nlohmann::ordered_json to_json(const model::ModelBytes& m, const model::Machine& machine,
                               const model::ServingPlan& p) {
  return {{"model",
           {{"dense", m.dense},
            {"embedding", m.embedding},
            {"experts", m.experts},
            {"expert", m.expert},
            {"cache_token", m.cache_token},
            {"speculative_num_steps", m.drafts}}},
          {"machine",
           {{"device_bytes", machine.device_bytes},
            {"host_bytes", machine.host_bytes},
            {"wire_gbs", machine.wire_gbs},
            {"dram_gbs", machine.dram_gbs},
            {"device_gbs", machine.device_gbs}}},
          {"device",
           {{"dense", p.device_dense},
            {"cache", p.device_cache},
            {"work", p.device_work},
            {"graphs", p.device_graphs},
            {"experts", p.device_experts},
            {"resident_experts", p.resident}}},
          {"host", p.host},
          {"decode_bound", p.decode_bound},
          {"prefill_bound", p.prefill_bound},
          {"problems", p.problems}};
}

void print(const Flags& flags, DType latents, const model::ModelBytes& m,
           const model::Machine& machine, const model::ServingPlan& p) {
  const auto line = [](const char* what, int64_t bytes, const std::string& note) {
    fmt::print("  {:<34}{:>9.2f} GB  {}\n", what, static_cast<double>(bytes) / 1e9, note);
  };
  const int64_t all = m.expert > 0 ? m.experts / m.expert : 0;
  fmt::print("with --speculative-num-steps {}: {}\n", m.drafts,
             m.drafts > 0 ? "the MTP layer drafts, and all that it takes counts"
                          : "no MTP layer is loaded");
  if (machine.device_bytes > 0) {
    fmt::print("device, {:.1f} GB\n", static_cast<double>(machine.device_bytes) / 1e9);
    line("weights outside the experts", p.device_dense, "");
    line("cache of one context", p.device_cache,
         fmt::format("{} tokens, latents in {}", flags.context, dtype_name(latents)));
    line("activations, scratch, ring", p.device_work,
         fmt::format("chunks of {} tokens", flags.chunk));
    line("captured steps", p.device_graphs, "");
    line("routed experts", p.device_experts, fmt::format("{} of {} resident", p.resident, all));
  }
  fmt::print("host, {:.1f} GB\n", static_cast<double>(machine.host_bytes) / 1e9);
  line(machine.device_bytes > 0 ? "the checkpoint" : "the checkpoint and one context", p.host,
       p.host == 0 ? "everything is on the device" : "");
  fmt::print("bounds with wire {} GB/s, CPU {} GB/s, device memory {} GB/s\n", machine.wire_gbs,
             machine.dram_gbs, machine.device_gbs);
  fmt::print("  {:<34}{:>9.2f} tokens/s, one sequence, every expert equally likely\n", "decode",
             p.decode_bound);
  if (p.prefill_bound > 0)
    fmt::print("  {:<34}{:>9.1f} tokens/s, in chunks of {}\n", "prefill", p.prefill_bound,
               flags.chunk);
  for (const std::string& problem : p.problems) fmt::print("does not fit: {}\n", problem);
}

Result<int> run(const Flags& flags) {
  LS_TRY(const std::optional<DType> asked, latent_dtype(flags.kv_cache_dtype));
  const DType latents = asked.value_or(DType::kBF16);
  LS_TRY(const model::ModelBytes bytes, bytes_of(flags, latents));
  model::Machine machine;
  LS_TRY(machine.device_bytes, device_bytes(flags));
  machine.host_bytes =
      flags.host_gib >= 0 ? static_cast<int64_t>(flags.host_gib * kGiB) : available_memory();
  machine.wire_gbs = flags.wire_gbs;
  machine.dram_gbs = flags.dram_gbs;
  machine.device_gbs = flags.device_gbs;
  const model::ServingPlan plan = model::plan_serving(bytes, machine, flags.context, flags.chunk);
  if (flags.as_json) {
    fmt::print("{}\n", to_json(bytes, machine, plan).dump());
  } else {
    print(flags, latents, bytes, machine, plan);
  }
  return plan.problems.empty() ? 0 : exit_code(ErrorKind::kMemory);
}

}  // namespace

Run add_plan(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command.add_option("MODEL,--model,--model-path", flags->model, "model directory");
  command.add_option("--synthetic", flags->synthetic, "instead: glm-5.1:dense=D,moe=M")
      ->type_name("SPEC");
  command.add_option("--device", flags->device, "cpu, cuda, cuda:N or auto")->capture_default_str();
  command.add_option("--kv-cache-dtype", flags->kv_cache_dtype, kKvCacheHelp)
      ->capture_default_str();
  command
      .add_option("--device-gib", flags->device_gib, "plan for a device with so much free memory")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--host-gib", flags->host_gib, "plan for a host with so much free memory")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--wire-gbs", flags->wire_gbs, "host to device, GB/s")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--dram-gbs", flags->dram_gbs, "that the CPU's experts read, GB/s")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--device-gbs", flags->device_gbs, "the device's memory, GB/s")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--context-length", flags->context, "tokens of one context")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  command.add_option("--chunked-prefill-size", flags->chunk, "prompt tokens of one step")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      .add_option("--speculative-num-steps", flags->drafts,
                  "tokens that the MTP layer drafts ahead at most; 0: it is not loaded")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  command.add_flag("--json", flags->as_json, "print JSON");
  return [flags] {
    const auto done = run(*flags);
    return done ? *done : report(done.error());
  };
}

}  // namespace longshore::cli
