// One function per command: adds its flags to the app and returns what runs when the command was
// given.
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

namespace longshore::cli {

// Returns the process's exit code.
using Run = std::function<int()>;

Run add_serve(CLI::App& command);
Run add_chat(CLI::App& command);
Run add_generate(CLI::App& command);
Run add_plan(CLI::App& command);
Run add_inspect(CLI::App& command);
Run add_eval(CLI::App& command);
Run add_logits(CLI::App& command);
Run add_tokenize(CLI::App& command);
Run add_render(CLI::App& command);
Run add_bench(CLI::App& command);
Run add_tune(CLI::App& command);

}  // namespace longshore::cli
