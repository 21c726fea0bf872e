#include "bench/grammar_bench.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/output_file.h"
#include "bench/grammar_cases.h"
#include "text/grammar/mask_cache.h"
#include "text/grammar/schema.h"

namespace longshore::bench {
namespace {

using text::Json;

// The longest token first, over and over.
std::vector<int32_t> tokens_of(const text::Vocabulary& vocabulary, std::string_view text) {
  const auto nodes = vocabulary.nodes();
  std::vector<int32_t> ids;
  while (!text.empty()) {
    int32_t best = -1;
    uint32_t end = nodes[0].end;
    uint32_t node = 1;
    for (size_t depth = 1; depth <= text.size() && node < end;) {
      const auto byte = static_cast<uint8_t>(text[depth - 1]);
      if (nodes[node].byte != byte) {
        node = nodes[node].end;
        continue;
      }
      const auto here = vocabulary.ids_of(node);
      if (!here.empty()) best = here.front();
      end = nodes[node].end;
      ++node;
      ++depth;
    }
    LS_CHECK(best >= 0);  // every byte is a token
    ids.push_back(best);
    text.remove_prefix(vocabulary.bytes(best).size());
  }
  return ids;
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// Microseconds of every mask along the text.
void walk(text::MaskCache& masks, const std::vector<int32_t>& ids, std::vector<double>& times) {
  text::Matcher matcher(*masks.automaton());
  text::Matcher scratch(*masks.automaton());
  std::vector<uint64_t> words(text::mask_words(masks.vocabulary()->size()));
  for (const int32_t id : ids) {
    Stopwatch watch;
    LS_CHECK(masks.fill(matcher, scratch, words));
    times.push_back(watch.lap() * 1e6);
    const auto bit = static_cast<size_t>(id);
    LS_CHECK_MSG((words[bit / 64] >> (bit % 64) & 1U) != 0, "token {} is not allowed", id);
    LS_CHECK(matcher.push_all(masks.vocabulary()->bytes(id)));
    matcher.settle();
  }
  LS_CHECK(matcher.ended());
}

Result<void> dump(const std::string& path, const std::vector<std::string>& tokens,
                  const Json& cases) {
  Json bytes = Json::array();
  for (const std::string& token : tokens) {
    std::string hex;
    for (const char c : token) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
    bytes.push_back(hex);
  }
  LS_TRY(OutputFile file, OutputFile::create(path));
  const std::string text = Json{{"tokens", bytes}, {"cases", cases}}.dump();
  LS_TRY_VOID(file.write(text.data(), text.size()));
  return file.commit();
}

}  // namespace

Result<Report> grammar_bench(const GrammarBenchOptions& options, const CancelToken& cancel) {
  const std::vector<std::string> tokens =
      synthetic_vocabulary(static_cast<size_t>(options.vocabulary));
  Report report{.bench = "grammar", .machine = machine_name(1), .ceilings = {}, .rows = {}};
  Stopwatch watch;
  const auto vocabulary = std::make_shared<const text::Vocabulary>(tokens);
  report.rows.push_back({"vocabulary, once", watch.lap() * 1e3, "ms", 0});
  std::vector<double> all_first;
  std::vector<double> all_kept;
  Json cases = Json::array();
  for (const GrammarCase& one : grammar_cases()) {
    if (cancel.cancelled()) return fail(ErrorKind::kCancelled, "stopped");
    const Json schema = Json::parse(one.schema);
    const std::vector<int32_t> ids = tokens_of(*vocabulary, one.text);
    watch.lap();
    const auto grammar = text::schema_grammar(schema);
    LS_CHECK_MSG(grammar.has_value(), "{}: {}", one.name, grammar.error().message);
    auto automaton = text::Automaton::compile(*grammar);
    LS_CHECK_MSG(automaton.has_value(), "{}: {}", one.name, automaton.error().message);
    const double compile = watch.lap() * 1e3;
    text::MaskCache masks(std::move(*automaton), vocabulary);
    std::vector<double> first;
    std::vector<double> kept;
    walk(masks, ids, first);
    for (int64_t i = 0; i < options.repeats; ++i) walk(masks, ids, kept);
    report.rows.push_back({one.name + ": compile", compile, "ms", 0});
    report.rows.push_back({one.name + ": first, mean",
                           [&] {
                             double sum = 0;
                             for (const double time : first) sum += time;
                             return sum / static_cast<double>(first.size());
                           }(),
                           "us", 0});
    report.rows.push_back({one.name + ": first, longest", quantile(first, 1), "us", 0});
    report.rows.push_back({one.name + ": kept, p50", quantile(kept, 0.5), "us", 0});
    report.rows.push_back({one.name + ": kept, p99", quantile(kept, 0.99), "us", 0});
    report.rows.push_back(
        {one.name + ": masks kept", static_cast<double>(masks.memory_bytes()) / 1048576, "MiB", 0});
    all_first.insert(all_first.end(), first.begin(), first.end());
    all_kept.insert(all_kept.end(), kept.begin(), kept.end());
    cases.push_back({{"name", one.name}, {"schema", schema}, {"text", one.text}, {"ids", ids}});
  }
  report.rows.push_back({"all: first, p50", quantile(all_first, 0.5), "us", 0});
  report.rows.push_back({"all: first, p99", quantile(all_first, 0.99), "us", 0});
  report.rows.push_back({"all: kept, p50", quantile(all_kept, 0.5), "us", 0});
  report.rows.push_back({"all: kept, p99", quantile(all_kept, 0.99), "us", 0});
  if (!options.dump.empty()) LS_TRY_VOID(dump(options.dump, tokens, cases));
  return report;
}

}  // namespace longshore::bench
