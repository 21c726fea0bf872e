#include "text/grammar/output_grammar.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/schema.h"
#include "text/grammar/strings.h"
#include "text/parsers/tag_scan.h"
#include "text/parsers/tool_schema.h"

namespace longshore::text {
namespace {

using Shared = std::shared_ptr<const Machine>;
template <typename T>
using Made = tl::expected<T, FormatFault>;

constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kCall = "<tool_call>";
constexpr std::string_view kEndCall = "</tool_call>";

// Any bytes up to the first `end`, inclusive, without `never` before it. With an empty `end`: any
// bytes without `never`.
Machine bytes_up_to(std::string_view end, std::string_view never) {
  // How much of each has been read last.
  using State = std::pair<size_t, size_t>;
  const auto longer = [](std::string_view tag, size_t read, uint8_t byte) {
    std::string text(tag.substr(0, read));
    text += static_cast<char>(byte);
    while (!tag.starts_with(text)) text.erase(0, 1);
    return text.size();
  };
  auto made = explore(
      State(0, 0),
      [&](const State& at, uint8_t byte) -> std::optional<State> {
        if (!end.empty() && at.first == end.size()) return std::nullopt;
        const State next(longer(end, at.first, byte), longer(never, at.second, byte));
        if (!never.empty() && next.second == never.size()) return std::nullopt;
        return next;
      },
      [&](const State& at) { return end.empty() || at.first == end.size(); }, 10'000);
  LS_CHECK(made.has_value());
  return std::move(*made);
}

class FormatWriter {
 public:
  FormatWriter(const OutputFormat& format, const IsAddedToken& is_added)
      : format_(format), is_added_(is_added), schemas_(format.tools) {}

  Made<Grammar> write() {
    grammar_.root = grammar_.add_rule("#");
    std::vector<ExprId> parts;
    if (format_.starts_in_reasoning) parts.push_back(reasoning());
    auto answer = body();
    if (!answer) return tl::unexpected(answer.error());
    parts.push_back(*answer);
    grammar_.define(grammar_.root, grammar_.sequence(std::move(parts)));
    return std::move(grammar_);
  }

 private:
  using Calls = OutputFormat::Calls;

  ExprId machine(Machine made) {
    return grammar_.machine(std::make_shared<const Machine>(std::move(made)));
  }

  ExprId tag(std::string_view text) {
    std::string bytes;
    if (is_added_(text)) bytes += static_cast<char>(kAddedToken);
    return grammar_.text(bytes.append(text));
  }

  // The reader takes a call that begins inside the reasoning for its end.
  ExprId reasoning() {
    return machine(bytes_up_to(kEndThink, format_.calls == Calls::kNone ? "" : kCall));
  }

  Made<ExprId> body() {
    if (format_.calls == Calls::kNone) return answer(/*beside_calls=*/false);
    auto calls = all_calls();
    if (!calls) return calls;
    if (format_.calls != Calls::kFree) return calls;
    if (!format_.schema && !format_.gbnf) return free_text_with_calls();
    const auto text = answer(/*beside_calls=*/true);
    if (!text) return text;
    return grammar_.choice({*text, *calls});
  }

  Made<ExprId> answer(bool beside_calls) {
    if (format_.gbnf) {
      auto root = parse_gbnf(*format_.gbnf, grammar_);
      if (!root) return fault("grammar", root.error());
      return grammar_.call(*root);
    }
    if (!format_.schema) return machine(bytes_up_to("", ""));
    auto document = SchemaDocument::load(*format_.schema);
    if (!document) return fault("schema", document.error());
    SchemaCompiler compiler(*document, grammar_, beside_calls);
    auto root = compiler.value({&(*document)->root()});
    if (!root) return fault("schema", root.error());
    if (auto done = compiler.finish(); !done) return fault("schema", done.error());
    return *root;
  }

  static tl::unexpected<FormatFault> fault(std::string part, const Error& error) {
    return tl::unexpected(FormatFault{std::move(part), error.message});
  }

  // `NAME...</tool_call>` of any tool.
  Made<ExprId> call_after_its_tag() {
    if (after_tag_) return grammar_.call(*after_tag_);
    std::vector<ExprId> made;
    size_t index = 0;
    for (const Json& entry : format_.tools) {
      const auto one = call_of(entry["function"], fmt::format("tools[{}]", index++));
      if (!one) return one;
      made.push_back(*one);
    }
    after_tag_ = grammar_.add_rule("call");
    grammar_.define(*after_tag_, grammar_.choice(std::move(made)));
    return grammar_.call(*after_tag_);
  }

  Made<ExprId> all_calls() {
    const auto call = call_after_its_tag();
    if (!call) return call;
    const ExprId one = grammar_.sequence({tag(kCall), *call});
    const bool single = format_.one_call || format_.calls == Calls::kOne;
    return single ? one : grammar_.repeat(one, 1, UINT32_MAX);
  }

  // The tag may come as a token or be spelled: both are calls to the reader.
  Made<ExprId> free_text_with_calls() {
    const auto call = call_after_its_tag();
    if (!call) return call;
    const ExprId before = machine(bytes_up_to(kCall, ""));
    const ExprId after = machine(bytes_up_to("", kCall));
    const ExprId one = grammar_.sequence({before, *call});
    return grammar_.sequence({grammar_.repeat(one, 0, format_.one_call ? 1 : UINT32_MAX), after});
  }

  Made<ExprId> call_of(const Json& function, const std::string& part) {
    const auto name = function["name"].get<std::string>();
    const Json* strict = keyword(function, "strict");
    const bool enforced = strict != nullptr && *strict == true;
    auto arguments = enforced ? strict_arguments(function, name, part) : any_arguments();
    if (!arguments) return arguments;
    return grammar_.sequence({grammar_.text(name), *arguments, tag(kEndCall)});
  }

  ExprId argument(ExprId key, ExprId value) {
    return grammar_.sequence(
        {tag("<arg_key>"), key, tag("</arg_key>"), tag("<arg_value>"), value, tag("</arg_value>")});
  }

  ExprId any_arguments() {
    if (!any_text_) any_text_ = grammar_.add_strings({false, 0, UINT32_MAX}, true);
    if (!any_name_) any_name_ = grammar_.add_strings({false, 1, UINT32_MAX}, true);
    return grammar_.repeat(argument(grammar_.call(*any_name_), grammar_.call(*any_text_)), 0,
                           UINT32_MAX);
  }

  Made<ExprId> strict_arguments(const Json& function, const std::string& name,
                                const std::string& part) {
    const Json* parameters = keyword(function, "parameters");
    if (parameters == nullptr) return grammar_.empty();
    auto document = SchemaDocument::load(*parameters);
    if (!document) return fault(part, document.error());
    SchemaCompiler compiler(*document, grammar_, /*inside_call=*/true);
    auto ways = compiler.objects({&(*document)->root()});
    if (!ways) return fault(part, ways.error());
    std::vector<ExprId> made;
    for (const SchemaCompiler::Object& way : *ways) {
      const auto one = arguments_of(way, name, part, compiler);
      if (!one) return one;
      made.push_back(*one);
    }
    if (auto done = compiler.finish(); !done) return fault(part, done.error());
    const ExprId all = grammar_.choice(std::move(made));
    if (grammar_.is_never(all)) {
      return tl::unexpected(FormatFault{part, "#: no arguments satisfy the schema"});
    }
    return all;
  }

  Made<ExprId> arguments_of(const SchemaCompiler::Object& object, const std::string& name,
                            const std::string& part, SchemaCompiler& compiler) {
    std::vector<ExprId> made;
    for (const SchemaCompiler::Property& property : object.properties) {
      const std::string& key = property.name;
      const bool plain =
          !key.empty() && trim(key) == key && !without_tags(one_of({key}), key.size() + 2)->empty();
      if (!plain) {
        return tl::unexpected(
            FormatFault{part, fmt::format("#/properties: the name {} cannot stand in a tool call",
                                          plain_json(Json(key)))});
      }
      auto value = compiler.argument(property.schemas, schemas_.takes_text(name, key));
      if (!value) return fault(part, value.error());
      const ExprId one = argument(grammar_.text(key), *value);
      made.push_back(grammar_.repeat(one, property.required ? 1 : 0, 1));
    }
    return grammar_.sequence(std::move(made));
  }

  const OutputFormat& format_;
  const IsAddedToken& is_added_;
  ToolSchemas schemas_;
  Grammar grammar_;
  std::optional<RuleId> after_tag_;
  std::optional<RuleId> any_text_;
  std::optional<RuleId> any_name_;
};

bool any_strict(const Json& tools) {
  return std::any_of(tools.begin(), tools.end(), [](const Json& entry) {
    const Json* strict = keyword(entry["function"], "strict");
    return strict != nullptr && *strict == true;
  });
}

}  // namespace

bool OutputFormat::constrains() const {
  if (schema || gbnf) return true;
  return calls != Calls::kNone && (calls != Calls::kFree || any_strict(tools));
}

std::string OutputFormat::key() const {
  return Json({schema ? *schema : Json(), gbnf ? Json(*gbnf) : Json(), static_cast<int>(calls),
               tools, one_call, starts_in_reasoning})
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

tl::expected<Grammar, FormatFault> output_grammar(const OutputFormat& format,
                                                  const IsAddedToken& is_added) {
  LS_CHECK(!format.schema || !format.gbnf);
  return FormatWriter(format, is_added).write();
}

}  // namespace longshore::text
