// The variable `loop`, and the scopes of names.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace longshore::text::jinja {

// Names of one block; the enclosing ones are found through parent.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : parent(std::move(outer)) {}
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> values;  // by symbol

  [[nodiscard]] const Value* find(int symbol) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
      for (const auto& [key, value] : scope->values) {
        if (key == symbol) return &value;
      }
    }
    return nullptr;
  }
  void set(int symbol, Value value) {
    for (auto& [key, old] : values) {
      if (key == symbol) {
        old = std::move(value);
        return;
      }
    }
    values.emplace_back(symbol, std::move(value));
  }
};

struct Loop : Object {
  explicit Loop(Items values) : Object(values->depth), items(std::move(values)) {}
  Items items;
  size_t index = 0;
  int level = 0;                 // of recursion
  std::vector<Value> last_seen;  // by changed()
  const Stmt* recursive = nullptr;
  std::shared_ptr<Scope> scope;  // around a recursive loop, until the loop ends
};

}  // namespace longshore::text::jinja
