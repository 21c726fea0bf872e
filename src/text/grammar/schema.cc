#include "text/grammar/schema.h"

#include <algorithm>

#include "base/check.h"
#include "text/grammar/strings.h"

namespace longshore::text {
namespace {

constexpr size_t kMaxWays = 100'000;        // of all anyOf and oneOf together, multiplied out
constexpr size_t kMaxBases = 1000;          // of one value: allOf, $ref and a choice of each anyOf
constexpr size_t kMaxAllBases = 1'000'000;  // of all ways together
constexpr size_t kMaxParts = 200'000;       // properties and prefixItems of all ways together
constexpr size_t kMaxLiteralBytes = 8'000'000;
constexpr size_t kMaxStates = 50'000;
constexpr uint32_t kMaxItems = 100'000;

bool contains(const SchemaCompiler::Schemas& schemas, const Json* schema) {
  return std::find(schemas.begin(), schemas.end(), schema) != schemas.end();
}

}  // namespace

uint32_t SchemaCompiler::types_of(const Schemas& schemas) {
  uint32_t types = kAnyType;
  for (const Json* schema : schemas) types &= SchemaDocument::types_of(*schema);
  return types;
}

// What a string must satisfy.
struct SchemaCompiler::Text {
  uint32_t low = 0;
  uint32_t high = UINT32_MAX;
  std::vector<const Machine*> machines;
  std::string key;  // equal for equal requirements
};

SchemaCompiler::SchemaCompiler(std::shared_ptr<const SchemaDocument> document, Grammar& grammar,
                               bool inside_call)
    : document_(std::move(document)),
      grammar_(grammar),
      inside_call_(inside_call),
      checker_(document_) {}

tl::unexpected<Error> SchemaCompiler::wrong(const Schemas& at, const std::string& what) const {
  return fail(ErrorKind::kUsage, "{}: {}", at.empty() ? "#" : document_->path_of(*at.front()),
              what);
}

Result<ExprId> SchemaCompiler::value(const Schemas& schemas) {
  Schemas key = schemas;
  std::erase_if(key, [](const Json* schema) { return *schema == true; });
  std::sort(key.begin(), key.end());
  key.erase(std::unique(key.begin(), key.end()), key.end());
  const auto known = rules_.find(key);
  if (known != rules_.end()) return grammar_.call(known->second);
  for (const Json* schema : key) {
    if (*schema == false) return grammar_.never();
  }
  const RuleId rule = grammar_.add_rule(key.empty() ? "#" : document_->path_of(*schemas.front()));
  rules_.emplace(std::move(key), rule);
  put_off_.emplace_back(rule, schemas);
  return grammar_.call(rule);
}

Result<void> SchemaCompiler::finish() {
  while (!put_off_.empty()) {
    const auto [rule, schemas] = std::move(put_off_.back());
    put_off_.pop_back();
    LS_TRY(const ExprId body, choice_of(schemas));
    grammar_.define(rule, body);
  }
  return {};
}

Result<std::vector<SchemaCompiler::Schemas>> SchemaCompiler::expand(const Schemas& schemas) {
  std::vector<Schemas> out;
  // Taken from the back.
  Schemas pending(schemas.rbegin(), schemas.rend());
  LS_TRY_VOID(expand(std::move(pending), {}, {}, out));
  return out;
}

// References and allOf join the bases; of every anyOf each option becomes a way of its own.
Result<void> SchemaCompiler::expand(Schemas pending, Schemas bases,
                                    std::vector<const Json*> choices, std::vector<Schemas>& out) {
  while (!pending.empty()) {
    const Json* schema = pending.back();
    pending.pop_back();
    if (*schema == true || contains(bases, schema)) continue;
    if (*schema == false) return {};
    if (bases.size() >= kMaxBases)
      return wrong(bases, fmt::format("more than {} schemas hold at once", kMaxBases));
    bases.push_back(schema);
    if (const Json* all = keyword(*schema, "allOf")) {
      for (size_t i = all->size(); i > 0; --i) pending.push_back(&(*all)[i - 1]);
    }
    if (const Json* ref = keyword(*schema, "$ref")) pending.push_back(&document_->target_of(*ref));
    for (const char* name : {"oneOf", "anyOf"}) {
      if (const Json* any = keyword(*schema, name)) choices.push_back(any);
    }
  }
  const uint32_t types = types_of(bases);
  if (types == 0) return {};
  if (choices.empty()) {
    out.push_back(std::move(bases));
    return {};
  }
  const Json* options = choices.back();
  choices.pop_back();
  for (const Json& option : *options) {
    if (++ways_ > kMaxWays) {
      return wrong(bases, fmt::format("anyOf and oneOf make more than {} ways when multiplied out",
                                      kMaxWays));
    }
    bases_ += bases.size();
    if (bases_ > kMaxAllBases) {
      return wrong(bases, fmt::format("anyOf and oneOf make ways of more than {} schemas when "
                                      "multiplied out with those beside them",
                                      kMaxAllBases));
    }
    LS_TRY_VOID(expand({&option}, bases, choices, out));
  }
  return {};
}

Result<void> SchemaCompiler::hold(const Schemas& bases, size_t parts) {
  parts_ += parts;
  if (parts_ <= kMaxParts) return {};
  return wrong(bases,
               fmt::format("properties, required, additionalProperties and prefixItems are too "
                           "many in all ways together: more than {}, long names counted as several",
                           kMaxParts));
}

Result<ExprId> SchemaCompiler::choice_of(const Schemas& schemas) {
  LS_TRY(const std::vector<Schemas> ways, expand(schemas));
  std::vector<ExprId> made;
  for (const Schemas& way : ways) {
    LS_TRY(const ExprId one, base(way));
    made.push_back(one);
  }
  return grammar_.choice(std::move(made));
}

Result<std::vector<Json>> SchemaCompiler::fitting(const Schemas& bases, const Literals& list) {
  std::vector<Json> made;
  for (const Json* value : list.values) {
    const auto fits = checker_.satisfies_all(*value, bases, list.source);
    if (!fits) return wrong(bases, fits.error().message);
    if (*fits) made.push_back(*value);
  }
  return made;
}

// A const if there is one, else the first enum; null where there is neither.
SchemaCompiler::Literals SchemaCompiler::literals_of(const Schemas& bases) {
  for (const Json* schema : bases) {
    if (const Json* constant = keyword(*schema, "const"))
      // Beside an enum of its own the whole schema is looked at.
      return {{constant}, keyword(*schema, "enum") == nullptr ? schema : nullptr, true};
  }
  for (const Json* schema : bases) {
    const Json* list = keyword(*schema, "enum");
    if (list == nullptr) continue;
    Literals made{{}, schema, true};
    for (const Json& value : *list) made.values.push_back(&value);
    return made;
  }
  return {};
}

Result<ExprId> SchemaCompiler::literals(const Schemas& bases, const std::vector<Json>& values) {
  std::vector<std::string> texts;
  for (const Json& value : values) {
    texts.push_back(plain_json(value));
    literal_bytes_ += texts.back().size();
  }
  if (literal_bytes_ > kMaxLiteralBytes)
    return wrong(bases, fmt::format("enum and const make more than {} bytes in all ways together",
                                    kMaxLiteralBytes));
  Machine made = one_of(std::move(texts));
  if (!inside_call_) return grammar_.machine(std::make_shared<const Machine>(std::move(made)));
  auto without = without_tags(made, made.states.size() + 1);
  if (!without) return wrong(bases, without.error().message);
  return grammar_.machine(std::make_shared<const Machine>(std::move(*without)));
}

Result<ExprId> SchemaCompiler::base(const Schemas& bases) {
  if (const Literals list = literals_of(bases); list.any) {
    LS_TRY(const std::vector<Json> values, fitting(bases, list));
    return literals(bases, values);
  }
  const uint32_t types = types_of(bases);
  std::vector<ExprId> made;
  if ((types & kNullType) != 0) made.push_back(grammar_.text("null"));
  if ((types & kBooleanType) != 0) {
    made.push_back(grammar_.text("true"));
    made.push_back(grammar_.text("false"));
  }
  if ((types & kIntegerType) != 0) {
    LS_TRY(const ExprId one, number(bases, /*whole=*/(types & kNumberType) == 0));
    made.push_back(one);
  }
  if ((types & kStringType) != 0) {
    LS_TRY(const ExprId one, string(bases));
    made.push_back(one);
  }
  if ((types & kArrayType) != 0) {
    LS_TRY(const ExprId one, array(bases));
    made.push_back(one);
  }
  if ((types & kObjectType) != 0) {
    LS_TRY(const ExprId one, object(bases));
    made.push_back(one);
  }
  return grammar_.choice(std::move(made));
}

// A rule of its own for each machine, shared by all that need the same.
Result<ExprId> SchemaCompiler::machine(const std::string& key, Result<Machine> made,
                                       const Schemas& bases) {
  if (!made) return wrong(bases, made.error().message);
  const RuleId rule = grammar_.add_rule(key);
  grammar_.define(rule, grammar_.machine(std::make_shared<const Machine>(std::move(*made))));
  leaves_.emplace(key, rule);
  return grammar_.call(rule);
}

Result<ExprId> SchemaCompiler::number(const Schemas& bases, bool whole) {
  NumberRange range{.low = {}, .high = {}, .whole = whole};
  for (const Json* schema : bases) narrow(range, *schema);
  const auto text = [](const std::optional<NumberRange::Bound>& bound) {
    return bound ? fmt::format("{}{}", bound->exclusive ? "(" : "[", bound->value) : "";
  };
  const std::string key = fmt::format("number {} {} {}", whole, text(range.low), text(range.high));
  const auto known = leaves_.find(key);
  if (known != leaves_.end()) return grammar_.call(known->second);
  return machine(key, numbers_in(range), bases);
}

Result<SchemaCompiler::Text> SchemaCompiler::text_of(const Schemas& bases) const {
  Text made;
  std::set<std::string> keys;
  for (const Json* schema : bases) {
    if (const Json* low = keyword(*schema, "minLength"))
      made.low = std::max(made.low, count_of(*low));
    if (const Json* high = keyword(*schema, "maxLength"))
      made.high = std::min(made.high, count_of(*high));
    if (const Json* pattern = keyword(*schema, "pattern")) {
      if (keys.insert("pattern " + pattern->dump()).second)
        made.machines.push_back(&document_->pattern(*pattern));
    }
    if (const Json* format = keyword(*schema, "format")) {
      if (keys.insert("format " + format->dump()).second)
        made.machines.push_back(format_named(format->get_ref<const std::string&>()));
    }
  }
  made.key = fmt::format("{} {}", made.low, made.high);
  for (const std::string& key : keys) made.key += ' ' + key;
  return made;
}

namespace {

Result<Machine> joined(const std::vector<const Machine*>& machines, uint32_t low, uint32_t high) {
  Machine made = machines.empty() ? any_text() : *machines.front();
  for (size_t i = 1; i < machines.size(); ++i) {
    LS_TRY(made, intersect(made, *machines[i], kMaxStates));
  }
  if (low > 0 || high < UINT32_MAX) {
    LS_TRY(made, with_length(made, low, high, kMaxStates));
  }
  return made;
}

}  // namespace

Result<ExprId> SchemaCompiler::string(const Schemas& bases) {
  LS_TRY(const Text text, text_of(bases));
  if (text.low > text.high) return grammar_.never();
  const std::string key = "string " + text.key;
  const auto known = leaves_.find(key);
  if (known != leaves_.end()) return grammar_.call(known->second);
  if (text.machines.empty()) {
    const RuleId rule = grammar_.add_strings({true, text.low, text.high}, inside_call_);
    leaves_.emplace(key, rule);
    return grammar_.call(rule);
  }
  auto made = joined(text.machines, text.low, text.high);
  if (made) made = as_json_strings(*made, kMaxStates);
  if (made && inside_call_) made = without_tags(*made, kMaxStates);
  if (!made) {
    return wrong(bases,
                 "pattern, format, minLength and maxLength together: " + made.error().message);
  }
  return machine(key, std::move(made), bases);
}

Result<ExprId> SchemaCompiler::bare_string(const Schemas& bases, bool text_only) {
  LS_TRY(const Text text, text_of(bases));
  if (text.low > text.high) return grammar_.never();
  const std::string key = fmt::format("bare {} {}", text_only, text.key);
  const auto known = leaves_.find(key);
  if (known != leaves_.end()) return grammar_.call(known->second);
  if (text.machines.empty() && text_only) {
    const RuleId rule = grammar_.add_strings({false, text.low, text.high}, /*without_tags=*/true);
    leaves_.emplace(key, rule);
    return grammar_.call(rule);
  }
  auto made = joined(text.machines, text.low, text.high);
  if (made && !text_only) made = unlike_json(*made, kMaxStates);
  if (made) made = without_tags(*made, kMaxStates);
  if (!made) return wrong(bases, "the argument's string: " + made.error().message);
  return machine(key, std::move(made), bases);
}

Result<ExprId> SchemaCompiler::argument(const Schemas& schemas, bool text_only) {
  LS_TRY(const std::vector<Schemas> ways, expand(schemas));
  std::vector<ExprId> made;
  for (const Schemas& way : ways) {
    const uint32_t types = types_of(way);
    if (const Literals list = literals_of(way); list.any) {
      std::vector<std::string> bare;
      std::vector<Json> others;
      LS_TRY(const std::vector<Json> values, fitting(way, list));
      for (const Json& value : values) {
        if (value.is_string()) {
          bare.push_back(value.get<std::string>());
        } else {
          others.push_back(value);
        }
      }
      Result<Machine> strings = one_of(std::move(bare));
      const size_t limit = strings->states.size() + 1;
      if (!text_only) strings = unlike_json(*strings, limit);
      if (strings) strings = without_tags(*strings, limit);
      if (!strings) return wrong(way, strings.error().message);
      made.push_back(grammar_.machine(std::make_shared<const Machine>(std::move(*strings))));
      LS_TRY(const ExprId rest, literals(way, others));
      made.push_back(rest);
      continue;
    }
    if ((types & kStringType) != 0) {
      LS_TRY(const ExprId one, bare_string(way, text_only));
      made.push_back(one);
    }
    static const Json no_string = {{"type", {"null", "boolean", "object", "array", "number"}}};
    if ((types & ~kStringType) != 0) {
      Schemas rest = way;
      rest.push_back(&no_string);
      LS_TRY(const ExprId one, base(rest));
      made.push_back(one);
    }
  }
  return grammar_.choice(std::move(made));
}

Result<ExprId> SchemaCompiler::array(const Schemas& bases) {
  uint32_t low = 0;
  uint32_t high = UINT32_MAX;
  size_t first = 0;  // items with a place of their own
  for (const Json* schema : bases) {
    if (const Json* count = keyword(*schema, "minItems")) low = std::max(low, count_of(*count));
    if (const Json* count = keyword(*schema, "maxItems")) high = std::min(high, count_of(*count));
    if (const Json* items = keyword(*schema, "prefixItems")) first = std::max(first, items->size());
  }
  if (low > high) return grammar_.never();
  if (low > kMaxItems || (high != UINT32_MAX && high > kMaxItems))
    return wrong(bases, fmt::format("minItems and maxItems above {} are not supported", kMaxItems));
  const auto item = [&](size_t index) -> Result<ExprId> {
    Schemas own;
    for (const Json* schema : bases) {
      const Json* places = keyword(*schema, "prefixItems");
      const Json* others = keyword(*schema, "items");
      if (places != nullptr && index < places->size()) {
        own.push_back(&(*places)[index]);
      } else if (others != nullptr) {
        own.push_back(others);
      }
    }
    LS_TRY_VOID(hold(bases, 1 + own.size()));
    return value(own);
  };
  first = std::min<size_t>(first, high);
  // From the last place backwards: what follows once that many items are there.
  const ExprId comma = grammar_.text(",");
  ExprId rest = grammar_.empty();
  if (high > first) {
    LS_TRY(const ExprId other, item(first));
    const uint32_t more_low = low > first ? low - static_cast<uint32_t>(first) : 0;
    const uint32_t more_high = high == UINT32_MAX ? high : high - static_cast<uint32_t>(first);
    if (first > 0) {
      rest = grammar_.repeat(grammar_.sequence({comma, other}), more_low, more_high);
    } else {
      const ExprId after =
          grammar_.repeat(grammar_.sequence({comma, other}), more_low == 0 ? 0 : more_low - 1,
                          more_high == UINT32_MAX ? more_high : more_high - 1);
      rest = grammar_.repeat(grammar_.sequence({other, after}), more_low == 0 ? 0 : 1, 1);
    }
  }
  constexpr size_t kMaxPlaces = 1000;
  if (first > kMaxPlaces)
    return wrong(bases, fmt::format("more than {} prefixItems are not supported", kMaxPlaces));
  for (size_t i = first; i > 0; --i) {
    LS_TRY(const ExprId own, item(i - 1));
    std::vector<ExprId> parts;
    if (i > 1) parts.push_back(comma);
    parts.push_back(own);
    parts.push_back(rest);
    rest = grammar_.repeat(grammar_.sequence(std::move(parts)), i <= low ? 1 : 0, 1);
  }
  return grammar_.sequence({grammar_.text("["), rest, grammar_.text("]")});
}

Result<Grammar> schema_grammar(Json schema) {
  Grammar grammar;
  LS_TRY(auto document, SchemaDocument::load(std::move(schema)));
  SchemaCompiler compiler(document, grammar);
  grammar.root = grammar.add_rule("#");
  LS_TRY(const ExprId root, compiler.value({&document->root()}));
  grammar.define(grammar.root, root);
  LS_TRY_VOID(compiler.finish());
  return grammar;
}

}  // namespace longshore::text
