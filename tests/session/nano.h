// The bundled model, loaded for a test.
#pragma once

#include <memory>
#include <utility>

#include "base/check.h"
#include "session/loaded_model.h"
#include "tests/paths.h"

namespace longshore::session {

// With two threads; stops the program where it cannot be loaded.
inline std::unique_ptr<LoadedModel> load_nano(LoadOptions options) {
  options.model = longshore::source_dir() + "/models/glm-nano";
  options.threads = 2;
  auto made = LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  return std::move(*made);
}

}  // namespace longshore::session
