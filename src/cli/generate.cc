#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/output_file.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/prompt_line.h"
#include "session/chat_request.h"
#include "session/completion.h"
#include "text/json_depth.h"

namespace longshore::cli {
namespace {

using text::Json;

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::string file;
  std::string output;
  std::vector<std::string> stop;
  std::string schema;
  std::string grammar;
  bool as_json = false;
  bool ignore_eos = false;
  std::optional<int32_t> logprobs;
};

struct Prompt {
  Json request;  // {"prompt": text} or {"messages": [...], ...}
  int64_t line = 0;
};

Result<std::vector<Prompt>> read_prompts(const Flags& flags) {
  if (flags.prompt && flags.prompt->empty()) {
    return fail(ErrorKind::kUsage, "-p: the prompt is empty: give the text to go on from");
  }
  if (flags.prompt.has_value() == !flags.file.empty())
    return fail(ErrorKind::kUsage, "give either -p TEXT or --file FILE");
  if (flags.file.empty()) return std::vector<Prompt>{{Json{{"prompt", *flags.prompt}}, 0}};
  LS_TRY(const std::string content, read_input(flags.file));
  std::vector<Prompt> prompts;
  int64_t number = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (text::nests_deeper(line, text::kMaxJsonDepth)) {
      return fail(ErrorKind::kUsage, "{}: line {}: nested more than {} levels deep", flags.file,
                  number, text::kMaxJsonDepth);
    }
    Json request = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!request.is_object() || request.contains("prompt") == request.contains("messages")) {
      return fail(ErrorKind::kUsage,
                  "{}: line {}: not a JSON object with either prompt or messages", flags.file,
                  number);
    }
    if (request.contains("prompt") && !request["prompt"].is_string()) {
      return fail(ErrorKind::kUsage, "{}: line {}: prompt is not a string", flags.file, number);
    }
    if (const auto known = check_line(request); !known) {
      return fail(known.error().kind, "{}: line {}: {}", flags.file, number, known.error().message);
    }
    prompts.push_back({std::move(request), number});
  }
  if (prompts.empty()) return fail(ErrorKind::kUsage, "{}: no prompts", flags.file);
  return prompts;
}

// --schema and --grammar, read once.
Result<text::OutputFormat> read_format(const Flags& flags) {
  text::OutputFormat format;
  if (!flags.schema.empty() && !flags.grammar.empty())
    return fail(ErrorKind::kUsage, "--schema and --grammar: give one");
  if (!flags.schema.empty()) {
    LS_TRY(const std::string source, read_input(flags.schema));
    if (text::nests_deeper(source, text::kMaxJsonDepth)) {
      return fail(ErrorKind::kUsage, "{}: nested more than {} levels deep", flags.schema,
                  text::kMaxJsonDepth);
    }
    Json schema = Json::parse(source, nullptr, /*allow_exceptions=*/false);
    if (schema.is_discarded()) return fail(ErrorKind::kUsage, "{}: not JSON", flags.schema);
    format.schema = std::move(schema);
  }
  if (!flags.grammar.empty()) {
    LS_TRY(format.gbnf, read_input(flags.grammar));
  }
  return format;
}

Result<session::SharedConstraint> constraint_of(const session::LoadedModel& loaded,
                                                const Flags& flags, text::OutputFormat format,
                                                bool starts_in_reasoning) {
  if (!format.constrains()) return nullptr;
  format.starts_in_reasoning = starts_in_reasoning;
  auto made = loaded.constraints->compile(format);
  if (made) return std::move(*made);
  return fail(ErrorKind::kUsage, "{}: {}", flags.schema.empty() ? flags.grammar : flags.schema,
              made.error().message);
}

Result<session::CompletionRequest> make_request(const session::LoadedModel& loaded,
                                                const Flags& flags,
                                                const text::OutputFormat& format,
                                                const Json& prompt) {
  session::CompletionRequest request;
  const LineOptions line = line_options(prompt, flags.sampling, flags.stop);
  request.stop = line.stop;
  request.generation.max_tokens = line.sampling.max_tokens;
  request.generation.ignore_stop_ids = flags.ignore_eos;
  request.generation.sampling = line.sampling.merge(loaded.defaults.sampling);
  request.generation.sampling.top_logprobs = flags.logprobs.value_or(-1);
  if (prompt.contains("prompt")) {
    LS_TRY(request.generation.prompt,
           loaded.tokenizer->encode(prompt["prompt"].get<std::string>()));
    LS_TRY(request.generation.constraint, constraint_of(loaded, flags, format, false));
    return request;
  }
  LS_TRY(const Json variables, session::template_variables(line.request));
  LS_TRY(const session::RenderedPrompt rendered, session::render_chat(loaded, variables));
  request.generation.prompt = rendered.ids;
  LS_TRY(request.generation.constraint,
         constraint_of(loaded, flags, format, rendered.starts_in_reasoning));
  return request;
}

Json stats_json(const engine::GenerationStats& stats) {
  return {{"prompt_tokens", stats.prompt_tokens},  {"cached_tokens", stats.cached_tokens},
          {"output_tokens", stats.output_tokens},  {"drafted_tokens", stats.drafted},
          {"accepted_tokens", stats.accepted},     {"prefill_seconds", stats.prefill_seconds},
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
      top.push_back({{"id", id},
                     {"text", loaded.tokenizer->decode(std::span(&id, 1))},
                     {"logprob", logprob}});
    }
    list.push_back({{"id", token.id}, {"logprob", token.logprob}, {"top", std::move(top)}});
  }
  result["logprobs"] = std::move(list);
  return result;
}

// Where results go: an output file, whole or not at all, or standard output.
struct Output {
  std::optional<OutputFile> file;

  [[nodiscard]] Result<void> write(const std::string& text) {
    if (file) return file->write(text.data(), text.size());
    if (std::cout << text << std::flush) return {};
    return fail(ErrorKind::kIo, "standard output: cannot write it");
  }
};

Result<void> check_logprobs(const Flags& flags) {
  constexpr int32_t kMostLogprobs = 20;
  if (!flags.logprobs) return {};
  if (!flags.as_json) return fail(ErrorKind::kUsage, "--logprobs: only --json shows them: add it");
  if (*flags.logprobs >= 0 && *flags.logprobs <= kMostLogprobs) return {};
  return fail(ErrorKind::kUsage, "--logprobs {}: use 0 to {}", *flags.logprobs, kMostLogprobs);
}

Result<void> run(const Flags& flags) {
  LS_TRY_VOID(check_logprobs(flags));
  LS_TRY(const std::vector<Prompt> prompts, read_prompts(flags));
  LS_TRY(const text::OutputFormat format, read_format(flags));
  LS_TRY(const session::LoadOptions options, flags.model.load_options());
  if (!options.synthetic.empty()) {
    return fail(
        ErrorKind::kUsage,
        "generate needs a tokenizer, which --synthetic weights lack: use `longshore bench`");
  }
  LS_TRY(const std::unique_ptr<session::LoadedModel> loaded, load(options));
  // A fault of the format is no prompt's.
  LS_TRY_VOID(constraint_of(*loaded, flags, format, false));
  const bool stream = flags.file.empty() && !flags.as_json && flags.output.empty();
  ItemProgress bar("generating");
  std::vector<session::Job> jobs;
  std::vector<std::vector<int32_t>> prompt_ids;
  for (const Prompt& prompt : prompts) {
    auto request = make_request(*loaded, flags, format, prompt.request);
    Result<void> valid =
        request ? session::prepare(*loaded, *request) : tl::unexpected<Error>(request.error());
    if (valid) valid = loaded->engine->validate(request->generation);
    if (!valid) {
      return prompt.line == 0 ? fail(valid.error().kind, "-p: {}", valid.error().message)
                              : fail(valid.error().kind, "{}: line {}: {}", flags.file, prompt.line,
                                     valid.error().message);
    }
    prompt_ids.push_back(request->generation.prompt);
    jobs.push_back({std::move(*request), {}});
  }
  Output out;
  if (!flags.output.empty()) {
    LS_TRY(out.file, OutputFile::create(flags.output));
  }
  // A result that cannot be written ends the batch: nobody could see the others.
  std::optional<Error> broken;
  const auto write = [&](const std::string& text) {
    if (broken) return;
    if (auto result = out.write(text); !result) {
      broken = std::move(result).error();
      interrupt_token().cancel();
    }
  };
  // Results are written in the order of the prompts, each as soon as those before it are.
  std::vector<std::optional<std::string>> finished(jobs.size());
  size_t written = 0;
  int64_t done = 0;
  const auto on_finish = [&](size_t i, const session::Completion& completion) {
    finished[i] = flags.as_json ? result_json(*loaded, prompt_ids[i], completion).dump()
                  : stream      ? ""
                                : completion.text;
    for (; written < finished.size() && finished[written]; ++written) {
      write(*finished[written] + '\n');
      finished[written]->clear();
    }
    if (!flags.file.empty()) bar.update(++done, static_cast<int64_t>(jobs.size()), "");
  };
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].sink.on_finish = [&, i](const session::Completion& completion) {
      on_finish(i, completion);
    };
  }
  if (stream) {
    jobs.front().sink.on_progress = [&](const session::Completion&,
                                        const session::Progress& progress) {
      write(progress.text);
      return true;
    };
  }
  LS_TRY(const std::vector<session::Completion> completions,
         session::complete_all(*loaded, std::move(jobs), interrupt_token()));
  if (broken) return tl::unexpected<Error>(*broken);
  for (size_t i = 0; i < completions.size(); ++i) {
    if (completions[i].error) return tl::unexpected<Error>(*completions[i].error);
    if (completions[i].finish_reason != "cancelled") continue;
    bar.finish();
    return fail(ErrorKind::kCancelled, "stopped in prompt {} of {}", i + 1, completions.size());
  }
  bar.finish();
  if (out.file) {
    LS_TRY_VOID(out.file->commit());
  }
  return loaded->close_routing();
}

}  // namespace

Run add_generate(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  flags->model.add_to(command);
  flags->model.add_speculation_to(command);
  flags->sampling.add_to(command);
  command.add_option("-p,--prompt", flags->prompt,
                     "the text to go on from, as it is (no chat template)");
  command.add_option("--file", flags->file,
                     "JSONL: {\"prompt\": text} or {\"messages\": [...], ...} a line; - for stdin");
  command.add_option("-o,--output", flags->output,
                     "write there instead of to standard output, once all is done");
  command.add_option("--stop", flags->stop, "stop string; may be given several times")
      ->allow_extra_args(false);
  command.add_option("--schema", flags->schema,
                     "a file with the JSON Schema that every answer must satisfy");
  command.add_option("--grammar", flags->grammar, "a file with the grammar (GBNF) of every answer");
  command.add_option("--logprobs", flags->logprobs,
                     "with --json: the N highest logprobs of every token, 0 to 20");
  command.add_flag("--ignore-eos", flags->ignore_eos, "go on past stop tokens");
  command.add_flag("--json", flags->as_json,
                   "a JSON object per prompt: prompt_ids, ids, text, finish_reason, stats");
  return [flags] {
    const auto done = run(*flags);
    return done ? 0 : report(done.error());
  };
}

}  // namespace longshore::cli
