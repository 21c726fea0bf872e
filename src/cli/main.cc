#include <cerrno>
#include <cstdio>
#include <iostream>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/options.h"

namespace {

// A standard descriptor that the caller closed would go to the next file that is opened: what we
// print could end up in it.
void open_standard_descriptors() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) == -1 && errno == EBADF)
      (void)open("/dev/null", O_RDWR);  // the lowest free one
  }
}

// What a library throws (a full disk or a closed pipe at standard output, no memory) ends in one
// line too.
int run_command(const longshore::cli::Run& run) {
  using longshore::Error;
  using longshore::ErrorKind;
  using longshore::cli::report;
  try {
    const int code = run();
    std::cout.flush();
    if (code != 0 || (std::cout && std::fflush(stdout) == 0)) return code;
    return report(Error{ErrorKind::kIo, "standard output: cannot write it"});
  } catch (const std::bad_alloc&) {
    return report(Error{
        ErrorKind::kMemory,
        "not enough memory: use a shorter input or a smaller --context-length, or free memory"});
  } catch (const std::system_error& error) {
    return report(Error{ErrorKind::kIo, error.what()});
  } catch (const std::exception& error) {
    // Nothing that we know of ends here: the fault is ours, and the exit code must not blame the
    // model.
    return report(
        Error{ErrorKind::kIo, fmt::format("unforeseen fault: {}; please report it", error.what())});
  }
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_descriptors();
  using namespace longshore::cli;  // NOLINT(google-build-using-namespace): main only
  CLI::App app("longshore runs GLM-5.1 (glm_moe_dsa) checkpoints on one machine.");
  app.set_version_flag("--version", LONGSHORE_VERSION);
  app.require_subcommand(1);
  struct Command {
    const char* name;
    const char* description;
    Run (*add)(CLI::App&);
  };
  const std::vector<Command> commands = {
      {"serve", "OpenAI and Anthropic APIs over HTTP, metrics", add_serve},
      {"chat", "talk in the terminal", add_chat},
      {"generate", "complete a prompt, or a file of prompts", add_generate},
      {"plan", "where the bytes would go and how fast it could be, before loading", add_plan},
      {"inspect", "config, tensors, sizes; verifies the checkpoint", add_inspect},
      {"eval", "exact-match accuracy per task", add_eval},
      {"logits", "logits of given token ids, as safetensors", add_logits},
      {"tokenize", "JSON strings in, JSON arrays of ids out, a line each", add_tokenize},
      {"render", "chat requests in, prompts out, as JSON, a line each", add_render},
      {"bench", "measures speed against the machine's ceilings", add_bench},
      {"tune", "measures a GPU's expert kernels and writes the tiles that serve picks up",
       add_tune},
  };
  std::vector<std::pair<CLI::App*, Run>> runs;
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.description);
    runs.emplace_back(sub, command.add(*sub));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    if (app.get_subcommands().empty() && app.remaining_size() > 0) {
      std::fprintf(stderr, "longshore: unknown command %s (see --help)\n",
                   app.remaining().front().c_str());
      return 2;
    }
    std::fprintf(stderr, "longshore: %s (see --help)\n", error.what());
    return 2;
  }
  install_interrupt_handler();
  for (const auto& [sub, run] : runs) {
    if (sub->parsed()) return run_command(run);
  }
  return 2;
}
