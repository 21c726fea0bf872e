// What the dialects need to know of the server's settings.
#pragma once

#include <cstdint>
#include <string>

namespace longshore::server {

struct ApiOptions {
  std::string served_model = "longshore";  // the name that answers carry
  // A request's `model` that is another name: 404 model_not_found. False: every name means the
  // served model.
  bool refuse_other_models = false;
  int64_t max_choices = 128;         // of one call: n, times the prompts of /v1/completions
  double dram_bytes_per_second = 0;  // plain reads by all threads, as measured; 0: not measured
};

}  // namespace longshore::server
