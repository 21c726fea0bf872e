#include <algorithm>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "base/check.h"
#include "bench/ceilings.h"
#include "bench/draft_recall.h"
#include "bench/expert_bench.h"
#include "bench/grammar_bench.h"
#include "bench/marked_backend.h"
#include "bench/model_bench.h"
#include "bench/offload_bench.h"
#include "bench/policy_bench.h"
#include "bench/report.h"
#include "bench/serving_bench.h"
#include "bench/speculation_bench.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "session/device_options.h"

namespace longshore::cli {
namespace {

struct Flags {
  std::string name;
  ModelFlags model;
  bench::ModelBenchOptions bench;
  bench::ExpertBenchOptions experts;
  bench::PolicyBenchOptions policy;
  bench::OffloadBenchOptions offload;
  bench::GrammarBenchOptions grammar;
  bench::SpeculationBenchOptions speculation;
  std::string tasks;
  std::string prose;
  bool recall = false;
  std::string only;
  bool operations = false;
  bool as_json = false;
};

void print(const bench::Report& report, bool as_json) {
  fmt::print("{}{}", as_json ? report.json() : report.table(), as_json ? "\n" : "");
}

// Before anything is opened or measured: where --operations would be ignored, or say what is wrong.
Result<void> check_operations(const Flags& flags) {
  if (!flags.operations) return {};
  const auto refuse = [](const std::string& why) {
    return fail(ErrorKind::kUsage, "--operations: {}", why);
  };
  const bool offload = flags.name == "offload";
  if (flags.name != "decode" && !offload)
    return refuse("for bench decode and bench offload, not bench " + flags.name);
  if (offload && flags.only == "prefill")
    return refuse("of steps that decode, and --only prefill measures none");
  const ModelFlags& model = flags.model;
  if (model.precision != "production")
    return refuse("needs --precision production, not " + model.precision);
  LS_TRY(const std::optional<int> ordinal, session::cuda_ordinal(model.device));
  if (!ordinal && (offload || model.device != "cpu"))
    return refuse("device time needs --device cuda, not --device " + model.device);
  if (!ordinal) return {};
  if (model.no_graphs)
    return refuse("device time is that of captured steps: leave out --disable-cuda-graph");
  if (model.offload_group.on())
    return refuse("whole layers' copies are not seen: leave out --offload-group-size");
  return {};
}

// The device is opened here, and runs with stamps between the parts of a step.
Result<void> mark_operations(session::LoadOptions& options) {
  LS_TRY(const std::optional<int> ordinal, session::cuda_ordinal(options.device));
  LS_CHECK(ordinal.has_value());
  LS_TRY(std::unique_ptr<kernels::Backend> device,
         kernels::make_cuda_backend(session::cuda_options(options, *ordinal)));
  LS_TRY(device, bench::make_marked_backend(std::move(device)));
  auto marked = std::make_shared<std::unique_ptr<kernels::Backend>>(std::move(device));
  options.backend = [marked](ThreadPool&) { return std::move(*marked); };
  return {};
}

Result<void> run_experts(const Flags& flags) {
  if (!flags.model.model.empty() || !flags.model.synthetic.empty()) {
    return fail(ErrorKind::kUsage,
                "bench cpu-expert makes its own weights: give no MODEL and no --synthetic");
  }
  if (flags.model.threads < 0 || flags.model.threads > 1024) {
    return fail(ErrorKind::kUsage, "--threads {}: use 0 to 1024", flags.model.threads);
  }
  bench::ExpertBenchOptions options = flags.experts;
  options.cpu_isa = flags.model.cpu_isa;
  options.decode = flags.only != "prefill";
  options.prefill = flags.only != "decode";
  ThreadPool pool(flags.model.threads > 0 ? flags.model.threads : available_cpus(), /*pin=*/true);
  LS_TRY(const bench::Report report, bench::expert_bench(pool, options, interrupt_token()));
  print(report, flags.as_json);
  return {};
}

Result<void> run_offload(const Flags& flags, session::LoadOptions options) {
  bench::OffloadBenchOptions chosen = flags.offload;
  chosen.context = flags.bench.context;
  chosen.decode = flags.only != "prefill";
  chosen.prefill = flags.only != "decode";
  // The bench makes its own models of every budget; this one says what the machine can do.
  options.gpu_expert_gib = 0;
  options.chunk = chosen.prefill && !chosen.chunks.empty()
                      ? *std::max_element(chosen.chunks.begin(), chosen.chunks.end())
                      : 64;
  options.context_length = std::max<int64_t>(3 * options.chunk, 4096);
  options.max_running = 16;
  if (flags.operations) LS_TRY_VOID(mark_operations(options));
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  LS_TRY(const bench::Report report, bench::offload_bench(*loaded, chosen, interrupt_token()));
  print(report, flags.as_json);
  return {};
}

Result<void> run_policy(const Flags& flags) {
  if (!flags.model.model.empty() || !flags.model.synthetic.empty()) {
    return fail(ErrorKind::kUsage,
                "bench policy replays routing: give no MODEL and no --synthetic");
  }
  LS_TRY(const bench::Report report, bench::policy_bench(flags.policy));
  print(report, flags.as_json);
  return {};
}

Result<void> run_grammar(const Flags& flags) {
  if (!flags.model.model.empty() || !flags.model.synthetic.empty()) {
    return fail(ErrorKind::kUsage,
                "bench grammar makes its own vocabulary: give no MODEL and no --synthetic");
  }
  LS_TRY(const bench::Report report, bench::grammar_bench(flags.grammar, interrupt_token()));
  print(report, flags.as_json);
  return {};
}

// No ceilings of the machine: the rows compare the engine with itself.
Result<void> run_serving(const Flags& flags, session::LoadOptions options) {
  options.max_running = 32;
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  const bench::ServingBenchOptions chosen{
      .context = flags.bench.context, .tokens = flags.bench.tokens, .repeats = flags.bench.repeats};
  LS_TRY(const bench::Report report, bench::serving_bench(*loaded, chosen, interrupt_token()));
  print(report, flags.as_json);
  return {};
}

Result<void> run_speculation(const Flags& flags, session::LoadOptions options) {
  bench::SpeculationBenchOptions chosen = flags.speculation;
  chosen.tokens = flags.bench.tokens;
  chosen.batches = flags.offload.batches;
  options.max_running = *std::max_element(chosen.batches.begin(), chosen.batches.end());
  if (options.speculative_steps == 0) options.speculative_steps = 3;
  const bool curve = !chosen.accept_rates.empty();
  if (!chosen.overlaps.empty() && !curve)
    return fail(ErrorKind::kUsage, "--overlaps is of the curve: give --accept-rates too");
  options.with_text = !flags.tasks.empty() || !flags.prose.empty();
  if (options.with_text && (curve || !options.synthetic.empty()))
    return fail(ErrorKind::kUsage,
                "--tasks and --prose need a model with text, and the curve has prompts of its own");
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  std::vector<bench::PromptSet> sets;
  if (!flags.tasks.empty()) {
    LS_TRY(const std::string content, read_input(flags.tasks));
    LS_TRY(sets.emplace_back(), bench::task_prompts(*loaded, content));
  }
  if (!flags.prose.empty()) {
    LS_TRY(const std::string content, read_input(flags.prose));
    LS_TRY(sets.emplace_back(), bench::prose_prompts(*loaded, content));
  }
  sets.push_back(bench::random_prompts(loaded->checkpoint->config().vocab_size, chosen.seed));
  const CancelToken& cancel = interrupt_token();
  LS_TRY(const bench::Report report,
         flags.recall ? bench::draft_recall(*loaded, sets, cancel)
         : curve      ? bench::speculation_curve(*loaded, sets.back(), chosen, cancel)
                      : bench::speculation_bench(*loaded, sets, chosen, cancel));
  print(report, flags.as_json);
  return {};
}

// What the model must refuse is refused before the ceilings take their seconds.
Result<void> check_length(const Flags& flags, const session::LoadOptions& options) {
  LS_TRY(const GlmConfig config, options.synthetic.empty()
                                     ? load_config(options.model)
                                     : Checkpoint::synthetic_config(options.synthetic));
  const int64_t tokens = flags.bench.context +
                         (flags.name == "decode" ? bench::kDecodeWarmUp + flags.bench.tokens : 0);
  if (tokens <= config.max_positions) return {};
  return fail(ErrorKind::kUsage,
              "--context {}: {} tokens with those measured, and the model has {} positions",
              flags.bench.context, tokens, config.max_positions);
}

Result<void> time_operations(session::LoadOptions& options, bench::OperationTimes& times) {
  if (options.device != "cpu") return mark_operations(options);
  ThreadPool one(1);
  LS_TRY_VOID(kernels::make_cpu_backend(one, options.cpu_isa));  // its refusal is an error here
  options.backend = [isa = options.cpu_isa, &times](ThreadPool& pool) {
    return bench::make_timed_backend(std::move(*kernels::make_cpu_backend(pool, isa)), times);
  };
  return {};
}

Result<void> run(const Flags& flags) {
  LS_TRY_VOID(check_operations(flags));
  if (flags.name == "cpu-expert") return run_experts(flags);
  if (flags.name == "policy") return run_policy(flags);
  if (flags.name == "grammar") return run_grammar(flags);
  LS_TRY(session::LoadOptions options, flags.model.load_options());
  options.with_text = false;
  if (flags.bench.context < 1 || flags.bench.tokens < 1 || flags.bench.repeats < 1) {
    return fail(ErrorKind::kUsage, "--context, --tokens and --repeats must be at least 1");
  }
  LS_TRY_VOID(check_length(flags, options));
  if (flags.name == "serving") return run_serving(flags, options);
  if (flags.name == "speculation") return run_speculation(flags, options);
  if (flags.name == "offload") return run_offload(flags, options);
  bench::OperationTimes times;
  if (flags.operations) LS_TRY_VOID(time_operations(options, times));
  bench::Ceilings ceilings;
  if (options.device == "cpu" || options.device == "auto") {
    // Before loading, while the memory is free for it.
    ThreadPool pool(options.threads > 0 ? options.threads : available_cpus(), /*pin=*/true);
    LS_TRY(ceilings.dram_gbs, bench::dram_read_gbs(pool, interrupt_token()));
    ceilings.fma_gflops = bench::fma_gflops(pool);
  }
  const bool timed = flags.operations && options.device == "cpu";
  bench::reset_peak_memory();
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  const CancelToken& cancel = interrupt_token();
  LS_TRY(const bench::Report report,
         flags.name == "decode"
             ? bench::decode_bench(*loaded, flags.bench, ceilings, timed ? &times : nullptr, cancel)
             : bench::prefill_bench(*loaded, flags.bench, ceilings, cancel));
  print(report, flags.as_json);
  return {};
}

}  // namespace

Run add_bench(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command
      .add_option("NAME", flags->name,
                  "decode, prefill, serving, offload, cpu-expert, policy, grammar or speculation")
      ->required()
      ->check(CLI::IsMember({"decode", "prefill", "serving", "offload", "cpu-expert", "policy",
                             "grammar", "speculation"}));
  flags->model.add_to(command);
  flags->model.add_speculation_to(command);
  command
      .add_option("--context", flags->bench.context,
                  "decode: tokens before; prefill, serving: tokens of the prompt")
      ->capture_default_str();
  command
      .add_option("--tokens", flags->bench.tokens,
                  "decode: tokens measured; serving: tokens of every answer")
      ->capture_default_str();
  command
      .add_option("--repeats", flags->bench.repeats,
                  "prefill: prompts measured; serving: runs of every case")
      ->capture_default_str();
  command
      .add_option("--experts", flags->experts.experts,
                  "cpu-expert: experts of the bank; 0: 256, or what fits")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_option("--only", flags->only, "cpu-expert, offload: decode or prefill")
      ->check(CLI::IsMember({"decode", "prefill"}));
  command.add_option("--trace", flags->policy.trace, "policy: a file of --record-routing");
  command
      .add_option("--routing", flags->policy.routing,
                  "policy: made-up routing: uniform, zipf:S or trace:FILE")
      ->capture_default_str();
  command.add_option("--half-life", flags->policy.half_life, "policy: steps; 0: several")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--routings", flags->offload.routing,
                  "offload: made-up routings, or model: the router's own")
      ->delimiter(',');
  command
      .add_option("--budgets", flags->offload.budgets,
                  "offload: shares of all experts that have slots")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 0.999));
  command
      .add_option("--batches", flags->offload.batches,
                  "offload: tokens of a step; speculation: sequences")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  command
      .add_option("--beside", flags->offload.beside,
                  "offload: sequences that decode beside a prompt of a chunk's length")
      ->delimiter(',')
      ->check(CLI::Range(0, 15));
  command
      .add_option("--rings", flags->offload.rings,
                  "offload: blocks that experts stream through, 0: as serving")
      ->delimiter(',')
      ->check(CLI::Range(0, 4096) & !CLI::IsMember({1}));
  command.add_option("--chunks", flags->offload.chunks, "offload: prefill tokens of a step")
      ->delimiter(',')
      ->check(CLI::Range(65, 32768));
  command
      .add_option("--device-gbs", flags->offload.device_gbs,
                  "offload: the device's memory bandwidth for the bound, GB/s")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--vocabulary", flags->grammar.vocabulary, "grammar: tokens of the vocabulary")
      ->check(CLI::Range(4096, 1 << 20))
      ->capture_default_str();
  command.add_option("--dump", flags->grammar.dump,
                     "grammar: write vocabulary, schemas and tokens there, for other programs");
  command.add_flag("--operations", flags->operations,
                   "decode: a row per operation of the CPU's, its time and what it reads; decode "
                   "with a device, offload: device time of each part of a step");
  command
      .add_option("--accept-rates", flags->speculation.accept_rates,
                  "speculation: the curve of fixed depths and the cost model, with these parts of "
                  "the drafts that count as right, whatever the model says")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0));
  command
      .add_option("--overlaps", flags->speculation.overlaps,
                  "speculation: of the curve, parts of its experts that a token shares with the "
                  "one before it; none: the model's own routing")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--tasks", flags->tasks, "speculation: a file of tasks, as eval reads it");
  command.add_option("--prose", flags->prose,
                     "speculation: a text whose paragraphs are gone on with");
  command.add_option("--pairs", flags->speculation.repeats, "speculation: pairs of runs of a case")
      ->check(CLI::Range(3, 1000))
      ->capture_default_str();
  command
      .add_option("--requests", flags->speculation.requests,
                  "speculation: answers of every run at least")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_flag(
      "--recall", flags->recall,
      "speculation: instead, what the draft's routing tells of a token's experts and what "
      "bringing missing ones ahead on it would gain");
  command.add_flag("--json", flags->as_json, "print JSON");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
