// Structured output by itself: compiling schemas, and the token mask of every place in a text.
//
// No model and no ceiling: the rows are times. "first": the first text of a fresh grammar, whose
// masks are found; "kept": the texts after it. Threading: one thread.
#pragma once

#include <string>

#include "base/cancel.h"
#include "base/error.h"
#include "bench/report.h"

namespace longshore::bench {

struct GrammarBenchOptions {
  int64_t vocabulary = 154880;  // GLM-5.1's
  int64_t repeats = 20;         // texts after the first
  std::string dump;             // a file for vocabulary, schemas and tokens, or empty
};

// kIo, kCancelled.
Result<Report> grammar_bench(const GrammarBenchOptions& options, const CancelToken& cancel);

}  // namespace longshore::bench
