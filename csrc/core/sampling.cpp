#include "fusedlm/sampling.h"

#include <cmath>
#include <sstream>

#include "core/dispatch.h"
#include "core/linear_checks.h"
#include "core/sampling_rules.h"

namespace fusedlm {

FUSEDLM_KERNEL(sample, Sample)

namespace {

constexpr const char* kOp = "sample";

void require(bool fits, const char* argument, double value, const char* expected) {
  if (fits) return;
  std::ostringstream text;
  text << argument << " is " << value << ", expected " << expected;
  check::fail(kOp, text.str());
}

void check_seen(const TensorView& seen, index_t B, index_t V) {
  check::tensor(kOp, "seen", seen, 2, {DType::int64});
  check::dim(kOp, "seen", seen, 0, B, "logits");
  check::last_contiguous(kOp, "seen", seen);
  for (index_t b = 0; b < B && check::readable(seen); ++b) {
    for (index_t s = 0; s < seen.shape[1]; ++s) {
      const index_t token = seen.row<index_t>(b)[s];
      if (token < -1 || token >= V) {
        check::fail(kOp, "seen has " + std::to_string(token) + " at [" + std::to_string(b) + ", " +
                             std::to_string(s) + "], expected -1 <= id < V = " + std::to_string(V));
      }
    }
  }
}

}  // namespace

void sample(const Sample& a, Context& ctx) {
  check::tensor(kOp, "logits", a.logits, 2, check::floats(a.logits));
  check::last_contiguous(kOp, "logits", a.logits);
  const index_t B = a.logits.shape[0], V = a.logits.shape[1];
  if (V == 0 || V > sampling::kMaxVocabulary) {
    check::fail(kOp, "logits has shape " + shape_string(a.logits) + ", expected 0 < V < 2^23");
  }
  check::vector_of(kOp, "tokens", a.tokens, B, "logits", {DType::int64});
  if (a.log_probs.defined())
    check::vector_of(kOp, "log_probs", a.log_probs, B, "logits", {DType::float32});
  if (a.rows.defined()) check::vector_of(kOp, "rows", a.rows, B, "logits", {DType::int64});
  if (a.seen.defined()) check_seen(a.seen, B, V);
  require(a.temperature >= 0 && std::isfinite(a.temperature), "temperature", a.temperature,
          "a finite number of at least 0");
  require(a.top_k >= 0, "top_k", static_cast<double>(a.top_k), "at least 0");
  require(a.top_p > 0 && a.top_p <= 1, "top_p", a.top_p, "0 < p <= 1");
  require(a.min_p >= 0 && a.min_p <= 1, "min_p", a.min_p, "0 <= p <= 1");
  require(a.repetition_penalty > 0 && std::isfinite(a.repetition_penalty), "repetition_penalty",
          a.repetition_penalty, "a finite number above 0");
  if (a.repetition_penalty != 1 && !a.seen.defined()) {
    check::fail(kOp, "repetition_penalty is given without seen");
  }
  if (B == 0) {
    const check::Call nothing_to_do;
    return;
  }
  dispatch_sample(a, ctx);
  if (!check::readable(a.tokens)) return;
  for (index_t b = 0; b < B; ++b) {
    if (a.tokens.as<index_t>()[b] < 0) {
      check::fail(kOp, "logits[" + std::to_string(b) +
                           "] holds NaN or +inf, or nothing but -inf, expected a row to draw from");
    }
  }
}

}  // namespace fusedlm
