#include "text/utf8.h"

namespace longshore::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct LeadByte {
  size_t length = 0;  // of the whole character; 0: no character starts so
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

LeadByte classify(uint8_t lead) {
  if (lead < 0x80) return {1};
  if (lead >= 0xC2 && lead <= 0xDF) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  if (lead >= 0xF1 && lead <= 0xF3) return {4};
  return {};
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
  using Status = Utf8Step::Status;
  const auto lead_byte = static_cast<uint8_t>(text[at]);
  if (lead_byte < 0x80) return {Status::kValid, 1, lead_byte};
  const LeadByte lead = classify(lead_byte);
  if (lead.length == 0) return {Status::kInvalid, 1, 0};
  uint32_t code_point = lead_byte & (0xFFU >> (lead.length + 1));
  for (size_t i = 1; i < lead.length; ++i) {
    if (at + i >= text.size()) return {Status::kIncomplete, i, 0};
    const auto byte = static_cast<uint8_t>(text[at + i]);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) return {Status::kInvalid, i, 0};
    code_point = (code_point << 6) | (byte & 0x3FU);
  }
  return {Status::kValid, lead.length, code_point};
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (step.status != Utf8Step::Status::kValid) return at;
    at += step.length;
  }
  return std::nullopt;
}

void append_utf8(std::string& out, uint32_t code_point) {
  const auto tail = [&](uint32_t shift) {
    out.push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)));
  };
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0 | (code_point >> 6)));
    tail(0);
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | (code_point >> 12)));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | (code_point >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t append_utf8_lossy(std::string& out, std::string_view bytes, bool last) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = utf8_step(bytes, at);
    if (step.status == Utf8Step::Status::kIncomplete && !last) return at;
    if (step.status == Utf8Step::Status::kValid) {
      out.append(bytes.substr(at, step.length));
    } else {
      out.append(kReplacement);
    }
    at += step.length;
  }
  return at;
}

bool is_white_space(uint32_t code_point) {
  if (code_point >= 0x09 && code_point <= 0x0D) return true;
  if (code_point >= 0x2000 && code_point <= 0x200A) return true;
  switch (code_point) {
    case 0x20:
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
      return true;
    default:
      return false;
  }
}

}  // namespace longshore::text
