#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include <editline/readline.h>
#include <fmt/format.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/standard_input.h"
#include "session/chat_request.h"
#include "session/completion.h"

namespace longshore::cli {
namespace {

using text::Json;

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system;
  bool no_think = false;
};

constexpr const char* kHelp =
    "/think on|off   let the model think before it answers, or not\n"
    "/reset          forget the conversation\n"
    "/stats          tokens and tokens per second of the last answer\n"
    "/help           this list\n"
    "/quit           leave; so does Ctrl-D. Ctrl-C stops an answer\n"
    "//...           a message that begins with one /\n";

// A conversation in the terminal.
class Chat {
 public:
  Chat(session::LoadedModel& loaded, const Flags& flags)
      : loaded_(loaded), flags_(flags), colour_(isatty(1) == 1), thinking_(!flags.no_think) {
    reset();
  }

  // False: the user wants to leave.
  bool command(const std::string& line);
  Result<void> ask(const std::string& line);

 private:
  void reset();
  void show(const text::OutputDelta& delta);
  void dim(bool on);
  void print_stats() const;
  [[nodiscard]] Result<session::CompletionRequest> request() const;

  session::LoadedModel& loaded_;
  const Flags& flags_;
  bool colour_;
  bool thinking_;
  bool dimmed_ = false;
  Json messages_;
  std::optional<engine::GenerationStats> stats_;
};

void Chat::reset() {
  messages_ = Json::array();
  if (!flags_.system.empty()) messages_.push_back({{"role", "system"}, {"content", flags_.system}});
}

void Chat::dim(bool on) {
  if (on != dimmed_ && colour_) std::fputs(on ? "\033[2m" : "\033[0m\n", stdout);
  if (on != dimmed_ && !colour_ && !on) std::fputs("\n", stdout);
  dimmed_ = on;
}

void Chat::show(const text::OutputDelta& delta) {
  using Kind = text::OutputDelta::Kind;
  dim(delta.kind == Kind::kReasoning);
  if (delta.kind == Kind::kToolCallBegin) {
    fmt::print("[calls {} ", delta.text);
  } else if (delta.kind == Kind::kToolCallEnd) {
    fmt::print("]\n");
  } else {
    fmt::print("{}", delta.text);
  }
  std::fflush(stdout);
}

void Chat::print_stats() const {
  if (!stats_) {
    fmt::print("no answer yet\n");
    return;
  }
  const engine::GenerationStats& s = *stats_;
  const auto per_second = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  fmt::print("prompt  {} tokens, {} of them cached, {:.3f} s, {:.1f} tokens/s\n", s.prompt_tokens,
             s.cached_tokens, s.prefill_seconds,
             per_second(s.prompt_tokens - s.cached_tokens, s.prefill_seconds));
  fmt::print("answer  {} tokens, {:.3f} s, {:.1f} tokens/s\n", s.output_tokens, s.decode_seconds,
             per_second(s.output_tokens - 1, s.decode_seconds));
  if (s.drafted == 0) return;
  fmt::print(
      "drafts  {} tokens, {} of them right ({:.0f} %), {:.2f} tokens a step\n", s.drafted,
      s.accepted, 100 * per_second(s.accepted, static_cast<double>(s.drafted)),
      per_second(s.output_tokens - 1, static_cast<double>(s.output_tokens - 1 - s.accepted)));
}

bool Chat::command(const std::string& line) {
  if (line == "/quit" || line == "/exit") return false;
  if (line == "/reset") {
    reset();
    fmt::print("the conversation is forgotten\n");
  } else if (line == "/stats") {
    print_stats();
  } else if (line == "/think on" || line == "/think off") {
    thinking_ = line == "/think on";
    fmt::print("thinking is {}\n", thinking_ ? "on" : "off");
  } else {
    if (line != "/help") fmt::print("unknown command {}\n", line);
    fmt::print("{}", kHelp);
  }
  return true;
}

Result<session::CompletionRequest> Chat::request() const {
  const Json body = {{"messages", messages_}, {"enable_thinking", thinking_}};
  LS_TRY(const Json variables, session::template_variables(body));
  LS_TRY(const session::RenderedPrompt prompt, session::render_chat(loaded_, variables));
  session::CompletionRequest request;
  request.generation.prompt = prompt.ids;
  request.generation.sampling = flags_.sampling.merge(loaded_.defaults.sampling);
  request.generation.max_tokens = flags_.sampling.max_tokens;
  request.parse = true;
  request.parser.starts_in_reasoning = prompt.starts_in_reasoning;
  return request;
}

Result<void> Chat::ask(const std::string& line) {
  messages_.push_back({{"role", "user"}, {"content", line}});
  session::CompletionSink sink;
  sink.on_progress = [this](const session::Completion&, const session::Progress& progress) {
    for (const text::OutputDelta& delta : progress.deltas) show(delta);
    return true;
  };
  auto made = request();
  auto completion = made ? session::complete(loaded_, std::move(*made), sink, interrupt_token())
                         : tl::unexpected<Error>(made.error());
  if (!completion) {
    messages_.erase(messages_.size() - 1);
    return tl::unexpected<Error>(completion.error());
  }
  dim(false);
  fmt::print("{}\n", completion->finish_reason == "length"
                         ? " [cut: the context or --max-tokens is full]"
                         : "");
  stats_ = completion->stats;
  messages_.push_back({{"role", "assistant"},
                       {"content", completion->content},
                       {"reasoning_content", completion->reasoning}});
  return {};
}

// A line from the terminal with editing and history, or from a pipe. False at the end of the input.
Result<bool> read_line(bool terminal, std::string& line) {
  if (!terminal) return next_line(line);
  char* raw = readline("> ");
  if (raw == nullptr) return false;
  line = raw;
  if (!line.empty()) add_history(raw);
  std::free(raw);  // NOLINT: readline gives malloc'ed memory
  return true;
}

Result<void> run(const Flags& flags) {
  LS_TRY(const session::LoadOptions options, flags.model.load_options());
  if (!options.synthetic.empty())
    return fail(ErrorKind::kUsage, "chat needs a tokenizer, which --synthetic weights lack");
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  const bool terminal = isatty(0) == 1;
  if (terminal) {
    fmt::print("{} on {}, {} threads. /help lists the commands.\n", loaded->checkpoint->where(),
               loaded->backend->name(), loaded->pool->size());
  }
  Chat chat(*loaded, flags);
  std::string line;
  while (true) {
    LS_TRY(const bool more, read_line(terminal, line));
    if (!more) return loaded->close_routing();
    if (line.empty()) continue;
    if (line.starts_with("//")) {
      line.erase(0, 1);
    } else if (line.front() == '/' && line.find('\n') == std::string::npos) {
      if (!chat.command(line)) return loaded->close_routing();
      continue;
    }
    // At a terminal, a Ctrl-C that stopped the last answer must not stop this one.
    if (terminal) forget_interrupt();
    if (const auto done = chat.ask(line); !done) {
      // The caller reports it. A device's fault does not go away.
      if (!terminal || done.error().kind == ErrorKind::kDevice) return done;
      (void)report(done.error());
    }
  }
}

}  // namespace

Run add_chat(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  flags->model.add_speculation_to(command);
  flags->sampling.add_to(command);
  command.add_option("--system", flags->system, "system prompt");
  command.add_flag("--no-think", flags->no_think, "start with thinking off");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
