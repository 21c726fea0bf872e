// Drives an engine by hand: submits, steps until idle, collects tokens.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "tests/model/golden.h"

namespace longshore::engine {

struct Generated {
  std::vector<int32_t> ids;
  std::vector<Sampled> tokens;
  GenerationResult result;
  int starts = 0;
  int finishes = 0;
};

// A listener that writes into `generated`, which outlives the request.
inline Listener record(Generated& generated) {
  return {.on_start = [&](const GenerationStats&) { ++generated.starts; },
          .on_token =
              [&](const Sampled& sampled) {
                generated.ids.push_back(sampled.id);
                generated.tokens.push_back(sampled);
                return true;
              },
          .on_finish =
              [&](const GenerationResult& result) {
                generated.result = result;
                ++generated.finishes;
              }};
}

inline std::unique_ptr<Engine> make_engine(TestModel& model, const EngineOptions& options) {
  auto made = Engine::create(*model.model, model.layout, model.pool, options);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return std::move(*made);
}

// Runs one request alone on the engine.
inline Generated run(Engine& engine, const GenerationRequest& request) {
  Generated generated;
  const auto id = engine.submit(request, record(generated));
  LS_CHECK_MSG(id.has_value(), "{}", id.error().message);
  while (engine.step()) {
  }
  return generated;
}

inline GenerationRequest greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

// Ids that look random and are the same every time; the same salt shares every prefix.
inline std::vector<int32_t> prompt_of(int64_t tokens, int32_t vocab, int32_t salt = 0) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < static_cast<int32_t>(tokens); ++i)
    ids.push_back((i * 37 + 11 + salt * 101) % vocab);
  return ids;
}

}  // namespace longshore::engine
