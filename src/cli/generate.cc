#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "session/chat_request.h"
#include "session/completion.h"

namespace longshore::cli {
namespace {

using text::Json;

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string prompt;
  std::string file;
  std::string output;
  std::vector<std::string> stop;
  bool as_json = false;
  bool ignore_eos = false;
  int32_t logprobs = -1;
};

struct Prompt {
  Json request;  // {"prompt": text} or {"messages": [...], ...}
  int64_t line = 0;
};

Result<std::vector<Prompt>> read_prompts(const Flags& flags) {
  if (flags.prompt.empty() == flags.file.empty()) return fail(ErrorKind::kUsage, "give either -p TEXT or --file FILE");
  if (flags.file.empty()) return std::vector<Prompt>{{Json{{"prompt", flags.prompt}}, 0}};
  LS_TRY(const std::string content, read_input(flags.file));
  std::vector<Prompt> prompts;
  int64_t number = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json request = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!request.is_object() || request.contains("prompt") == request.contains("messages")) {
      return fail(ErrorKind::kUsage, "{}: line {}: not a JSON object with either prompt or messages", flags.file, number);
    }
    if (request.contains("prompt") && !request["prompt"].is_string()) {
      return fail(ErrorKind::kUsage, "{}: line {}: prompt is not a string", flags.file, number);
    }
    prompts.push_back({std::move(request), number});
  }
  if (prompts.empty()) return fail(ErrorKind::kUsage, "{}: no prompts", flags.file);
  return prompts;
}

Result<session::CompletionRequest> make_request(const session::LoadedModel& loaded, const Flags& flags,
                                                const Json& prompt) {
  session::CompletionRequest request;
  request.stop = flags.stop;
  request.generation.max_tokens = flags.sampling.max_tokens;
  request.generation.ignore_stop_ids = flags.ignore_eos;
  request.generation.sampling = flags.sampling.merge(loaded.defaults.sampling);
  request.generation.sampling.top_logprobs = flags.logprobs;
  if (prompt.contains("prompt")) {
    LS_TRY(request.generation.prompt, loaded.tokenizer->encode(prompt["prompt"].get<std::string>()));
    return request;
  }
  LS_TRY(const Json variables, session::template_variables(prompt));
  LS_TRY(const session::RenderedPrompt rendered, session::render_chat(loaded, variables));
  request.generation.prompt = rendered.ids;
  return request;
}

Json stats_json(const engine::GenerationStats& stats) {
  return {{"prompt_tokens", stats.prompt_tokens},
          {"cached_tokens", stats.cached_tokens},
          {"output_tokens", stats.output_tokens},
          {"prefill_seconds", stats.prefill_seconds},
          {"decode_seconds", stats.decode_seconds}};
}

Json result_json(const session::LoadedModel& loaded, const std::vector<int32_t>& prompt_ids,
                 const session::Completion& completion) {
  Json result = {{"prompt_ids", prompt_ids},
                 {"ids", completion.ids},
                 {"text", completion.text},
                 {"finish_reason", completion.finish_reason},
                 {"stats", stats_json(completion.stats)}};
  if (completion.tokens.empty()) return result;
  Json list = Json::array();
  for (const engine::Sampled& token : completion.tokens) {
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top_logprobs) {
      top.push_back({{"id", id}, {"text", loaded.tokenizer->decode(std::span(&id, 1))}, {"logprob", logprob}});
    }
    list.push_back({{"id", token.id}, {"logprob", token.logprob}, {"top", std::move(top)}});
  }
  result["logprobs"] = std::move(list);
  return result;
}

Result<void> run(const Flags& flags) {
  LS_TRY(const std::vector<Prompt> prompts, read_prompts(flags));
  LS_TRY(const session::LoadOptions options, flags.model.load_options());
  if (!options.synthetic.empty()) {
    return fail(ErrorKind::kUsage, "generate needs a tokenizer, which --synthetic weights lack: use `longshore bench`");
  }
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  std::ofstream file;
  if (!flags.output.empty()) {
    file.open(flags.output);
    if (!file) return fail(ErrorKind::kUsage, "{}: cannot write it", flags.output);
  }
  std::ostream& out = flags.output.empty() ? std::cout : file;
  ItemProgress bar("generating");
  session::CompletionSink sink;
  const bool stream = !flags.as_json && flags.output.empty();
  if (stream) sink.on_text = [](std::string_view piece) { std::cout << piece << std::flush; };
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto request = make_request(*loaded, flags, prompts[i].request);
    const auto at = [&](const Error& error) {
      return prompts[i].line == 0 ? tl::unexpected<Error>(error)
                                  : fail(error.kind, "{}: line {}: {}", flags.file, prompts[i].line, error.message);
    };
    if (!request && prompts[i].line == 0)
      return fail(request.error().kind, "-p: {}", request.error().message);
    if (!request) return at(request.error());
    const std::vector<int32_t> prompt_ids = request->generation.prompt;
    auto completion = session::complete(*loaded, std::move(*request), sink, interrupt_token());
    if (!completion) return at(completion.error());
    if (flags.as_json) {
      out << result_json(*loaded, prompt_ids, *completion).dump() << '\n' << std::flush;
    } else {
      out << (stream ? "" : completion->text) << '\n' << std::flush;
    }
    if (completion->finish_reason == "cancelled") {
      bar.finish();
      return fail(ErrorKind::kCancelled, "stopped in prompt {} of {}", i + 1, prompts.size());
    }
    if (!flags.file.empty() && (!stream || flags.as_json)) {
      bar.update(static_cast<int64_t>(i) + 1, static_cast<int64_t>(prompts.size()), "");
    }
  }
  bar.finish();
  if (!out.flush()) {
    return fail(ErrorKind::kIo, "{}: cannot write it",
                flags.output.empty() ? "standard output" : flags.output);
  }
  return {};
}

}  // namespace

Run add_generate(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  flags->sampling.add_to(command);
  command.add_option("-p,--prompt", flags->prompt, "the text to go on from, as it is (no chat template)");
  command.add_option("--file", flags->file, "JSONL: {\"prompt\": text} or {\"messages\": [...], ...} a line; - for stdin");
  command.add_option("-o,--output", flags->output, "write there instead of to standard output");
  command.add_option("--stop", flags->stop, "stop string; may be given several times");
  command.add_option("--logprobs", flags->logprobs, "with --json: the N highest logprobs of every token");
  command.add_flag("--ignore-eos", flags->ignore_eos, "go on past stop tokens");
  command.add_flag("--json", flags->as_json, "a JSON object per prompt: prompt_ids, ids, text, finish_reason, stats");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
