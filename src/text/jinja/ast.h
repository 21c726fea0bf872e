// The syntax tree of a template. Immutable after parsing; any number of renders on any threads read
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace longshore::text::jinja {

enum class Op : uint8_t {
  kConst,
  kName,
  kList,
  kTuple,
  kDict,       // operands: key, value, key, value
  kAttribute,  // operands[0].text
  kItem,       // operands[0][operands[1]]
  kSlice,      // operands: start, stop, step; each may be null
  kCall,       // operands[0](operands[1...])
  kFilter,     // operands[0] | text(operands[1...])
  kTest,       // operands[0] is text(operands[1...])
  kNot,
  kNegate,
  kPlus,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcat,
  kCompare,  // operands[0] comparisons[0] operands[1] comparisons[1] operands[2] ...
  kAnd,
  kOr,
  kConditional,  // operands: value, condition, otherwise (may be null)
};

enum class Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  Op op;
  int line;
  int depth = 1;    // of this tree
  int symbol = -1;  // of kName
  std::string text;
  Value constant;
  std::vector<ExprPtr> operands;
  std::vector<Comparison> comparisons;
  std::vector<std::pair<std::string, ExprPtr>> keyword;  // arguments by name
  ExprPtr star;                                          // *arguments
  ExprPtr double_star;                                   // **arguments
};

// What `set` and `for` assign to: a name, name.attribute of a namespace, or several targets.
struct Target {
  int line = 0;
  int symbol = -1;
  std::string attribute;
  std::vector<Target> parts;
  bool tuple = false;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct MacroNode {
  struct Parameter {
    int symbol;
    std::string name;
    ExprPtr otherwise;  // the default, or null
  };
  int line = 0;
  std::string name;
  int symbol = -1;  // -1: the caller of a call block
  std::vector<Parameter> parameters;
  Block body;
  // Whether the body mentions these names; only then they are taken.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

enum class StmtKind : uint8_t {
  kData,
  kOutput,     // expr
  kIf,         // conditions[i] guards blocks[i]; one block more is `else`
  kFor,        // target in expr if conditions[0]: blocks[0], else blocks[1]
  kSet,        // target = expr
  kSetBlock,   // target = blocks[0] through the filters in expr (may be null)
  kMacro,      // macro
  kCallBlock,  // expr is the call, macro its caller
  kFilter,     // blocks[0] through the filters in expr
  kWith,       // targets = conditions, around blocks[0]
  kScope,      // blocks[0] in a scope of its own
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind;
  int line;
  std::string data;
  ExprPtr expr;
  Target target;
  std::vector<Target> targets;
  std::vector<ExprPtr> conditions;
  std::vector<Block> blocks;
  std::unique_ptr<MacroNode> macro;
  bool recursive = false;
};

struct Tree {
  Block body;
  std::vector<std::string> symbols;  // names by symbol number
};

}  // namespace longshore::text::jinja
