#include <memory>
#include <string>

#include <fmt/format.h>

#include "bench/ceilings.h"
#include "bench/model_bench.h"
#include "bench/report.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace longshore::cli {
namespace {

struct Flags {
  std::string name;
  ModelFlags model;
  bench::ModelBenchOptions bench;
  bool as_json = false;
};

Result<void> run(const Flags& flags) {
  LS_TRY(session::LoadOptions options, flags.model.load_options());
  options.with_text = false;
  if (flags.bench.context < 1 || flags.bench.tokens < 1 || flags.bench.repeats < 1) {
    return fail(ErrorKind::kUsage, "--context, --tokens and --repeats must be at least 1");
  }
  bench::Ceilings ceilings;
  {
    // Before loading, while the memory is free for it.
    ThreadPool pool(options.threads > 0 ? options.threads : available_cpus(), /*pin=*/true);
    LS_TRY(ceilings.dram_gbs, bench::dram_read_gbs(pool));
    ceilings.fma_gflops = bench::fma_gflops(pool);
  }
  bench::reset_peak_memory();
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  const auto measure = flags.name == "decode" ? bench::decode_bench : bench::prefill_bench;
  LS_TRY(const bench::Report report, measure(*loaded, flags.bench, ceilings, interrupt_token()));
  fmt::print("{}{}", flags.as_json ? report.json() : report.table(), flags.as_json ? "\n" : "");
  return {};
}

}  // namespace

Run add_bench(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command.add_option("NAME", flags->name, "decode or prefill")->required()->check(CLI::IsMember({"decode", "prefill"}));
  flags->model.add_to(command);
  command.add_option("--context", flags->bench.context, "decode: tokens before; prefill: tokens of the prompt")
      ->capture_default_str();
  command.add_option("--tokens", flags->bench.tokens, "decode: tokens measured")->capture_default_str();
  command.add_option("--repeats", flags->bench.repeats, "prefill: prompts measured")->capture_default_str();
  command.add_flag("--json", flags->as_json, "print JSON");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
