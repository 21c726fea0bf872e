// A Prometheus registry whose names start with longshore: and which puts this server's label on
// everything.
#pragma once

#include <map>
#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace longshore::server {

class Registrar {
 public:
  using Labels = std::map<std::string, std::string>;
  using Buckets = prometheus::Histogram::BucketBoundaries;

  explicit Registrar(const std::string& model_name) : labels_{{"model_name", model_name}} {}

  prometheus::Gauge& gauge(const char* name, const char* help, const Labels& more = {}) {
    return prometheus::BuildGauge().Name(full(name)).Help(help).Register(registry_).Add(with(more));
  }
  prometheus::Counter& counter(const char* name, const char* help, const Labels& more = {}) {
    return prometheus::BuildCounter()
        .Name(full(name))
        .Help(help)
        .Register(registry_)
        .Add(with(more));
  }
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets,
                                   const Labels& more = {}) {
    return prometheus::BuildHistogram()
        .Name(full(name))
        .Help(help)
        .Register(registry_)
        .Add(with(more), buckets);
  }
  [[nodiscard]] std::string render() const {
    return prometheus::TextSerializer().Serialize(registry_.Collect());
  }

 private:
  static std::string full(const char* name) { return std::string("longshore:") + name; }
  [[nodiscard]] Labels with(const Labels& more) const {
    Labels all = labels_;
    all.insert(more.begin(), more.end());
    return all;
  }

  // Merge: a family is asked for once per set of labels.
  prometheus::Registry registry_{prometheus::Registry::InsertBehavior::Merge};
  Labels labels_;
};

}  // namespace longshore::server
