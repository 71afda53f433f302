#include "compiler/proof/prover.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"
#include "compiler/proof/agreement.h"
#include "compiler/proof/check_region.h"
#include "compiler/proof/correspondence.h"
#include "compiler/proof/decoder_runs.h"
#include "compiler/proof/random_case.h"
#include "compiler/proof/region.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Value;
using passes::Pass;
using passes::Relation;

constexpr int kMaxGrowth = 16;       // steps back from a region that fails
constexpr int64_t kVocabulary = 16;  // token ids of whole runs are below it
constexpr int64_t kLongestRow = 10;  // tokens of a sequence in a whole run
constexpr int kRows = 3;             // sequences in it

std::string DescribeValue(const Graph& graph, const Value* value) {
  if (value == nullptr) return "";
  if (value->def() != nullptr) return ir::Describe(graph, *value->def());
  return absl::StrCat(value->kind() == ir::ValueKind::kInput ? "input " : "weight ", QuoteString(value->name()));
}

// Layers whose rows become codes as they run.
int64_t CodedLayers(const Graph& graph) {
  return std::ranges::count_if(graph.nodes(), [](const auto& node) {
    return node->op() == ir::Op::kFusedLinear && node->operand(1)->tensor().dtype == DType::kI8;
  });
}

struct Failure {
  Claim claim;
  std::string detail;
  Region region;
  bool evaluated = true;  // the region, to what the detail says; else it could not be
};

// The step graph's rows against those of the rectangular graph it was made of, in the wide mode.
absl::StatusOr<std::optional<std::string>> CompareRows(const Graph& rectangular, const Graph& step, uint64_t seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  const Case setting{.seed = seed, .symbols = {}, .roles = {}, .positive = false};
  const interpreter::WeightSource weights =
      RandomWeightSource({&rectangular, &step}, setting, kVocabulary, /*round_to_narrowest=*/true);
  auto graph_length = step.metadata().find("context_length");
  int64_t longest = kLongestRow;
  if (graph_length != step.metadata().end() && std::holds_alternative<int64_t>(graph_length->second)) {
    longest = std::min(longest, std::get<int64_t>(graph_length->second));
  }
  const Sequences sequences = RandomSequences(kRows, longest, kVocabulary, random);
  const interpreter::Values inputs = RectangularInputs(rectangular, sequences);
  FF_ASSIGN_OR_RETURN(const interpreter::Values outputs,
                      Interpret(rectangular, inputs, weights, interpreter::Mode::kWide));
  SymbolValues symbols;
  const Dims& shape = rectangular.FindInput("input_ids")->tensor().shape;
  const interpreter::Shape& sizes = std::get<interpreter::Tensor>(inputs.at("input_ids")).shape;
  for (size_t i = 0; i < shape.size(); ++i) symbols[shape[i].ToString()] = sizes[i];
  FF_ASSIGN_OR_RETURN(const auto growth, ErrorGrowth(rectangular, inputs, weights, symbols, outputs));
  const double allowed = AllowedDifference(growth.begin()->second, kWideRoundoff);
  FF_ASSIGN_OR_RETURN(const Logits want, RectangularRows(outputs.begin()->second, sequences));
  const absl::StatusOr<Logits> got =
      RunSteps(step, weights, sequences, kCasePageSize, interpreter::Mode::kWide, random);
  if (!got.ok()) return absl::StrCat("the step graph fails: ", got.status().message());
  for (size_t s = 0; s < want.size(); ++s) {
    for (size_t i = 0; i < want[s].size(); ++i) {
      const std::vector<double>& row = (*got)[s][i];
      if (row.empty()) continue;
      if (row.size() != want[s][i].size()) return absl::StrCat("rows have ", row.size(), " logits");
      for (size_t j = 0; j < row.size(); ++j) {
        if (std::abs(row[j] - want[s][i][j]) <= allowed) continue;
        return absl::StrCat("logit ", j, " of sequence ", s, " at position ", i, " is ", row[j], ", expected ",
                            want[s][i][j], ", allowed difference ", allowed);
      }
    }
  }
  return std::nullopt;
}

}  // namespace

std::string Violation::ToString() const {
  std::string text = pass.empty() ? "the graph after all passes is not what it was"
                                  : absl::StrCat(pass, " is not ", passes::RelationName(relation));
  if (rewrite > 0) absl::StrAppend(&text, ", rewrite ", rewrite);
  if (!before.empty()) absl::StrAppend(&text, ", at ", before);
  if (!after.empty()) absl::StrAppend(&text, ", now ", after);
  absl::StrAppend(&text, ": ", detail);
  return text;
}

// Claims are gathered from the outputs back, since one that no output rests on need not hold; then each region is
// evaluated, and what fails is tried with more around it in the order of the rewrites, so that the first is named.
absl::StatusOr<std::optional<Violation>> Prover::CheckClaims(const Pass& pass, const Correspondence& pairs,
                                                             PassProof* proof) {
  const RegionExtractor extractor(pairs);
  const std::vector<Case> cases = MakeCases(pairs.before(), proof_.cases, proof_.seed);
  Violation violation{.pass = std::string(pass.name()), .relation = pass.relation()};

  std::vector<Claim> open;
  for (const ir::Output& output : pairs.before().outputs()) {
    const auto same = [&output](const ir::Output& other) { return other.name == output.name; };
    const auto& outputs = pairs.after().outputs();
    const auto it = std::find_if(outputs.begin(), outputs.end(), same);
    if (it == outputs.end()) {
      violation.detail = absl::StrCat("output ", QuoteString(output.name), " is gone");
      return violation;
    }
    open.push_back({output.value, it->value});
  }
  absl::flat_hash_set<std::pair<const Value*, const Value*>> seen;
  std::vector<Failure> failures;
  while (!open.empty()) {
    const Claim claim = open.back();
    open.pop_back();
    if (!seen.emplace(claim.before, claim.after).second) continue;
    ++proof->claims;
    if (extractor.IsCongruent(claim, &open)) continue;
    ++proof->regions;
    absl::StatusOr<Region> region = extractor.Extract(claim, {});
    if (!region.ok()) {
      violation.before = DescribeValue(pairs.before(), claim.before);
      violation.detail = std::string(region.status().message());
      return violation;
    }
    open.insert(open.end(), region->boundary.begin(), region->boundary.end());
    std::string key = absl::StrCat(passes::RelationName(pass.relation()), "\n", ir::Print(*region->before),
                                   ir::Print(*region->after));
    if (proven_.contains(key)) continue;
    ++proof->evaluated;
    absl::StatusOr<std::optional<std::string>> difference =
        FindDifference(*region->before, *region->after, pass.relation(), cases);
    if (!difference.ok()) {  // more of the graph may give the region values that it can take
      failures.push_back({claim, std::string(difference.status().message()), *std::move(region), /*evaluated=*/false});
    } else if (difference->has_value()) {
      failures.push_back({claim, **difference, *std::move(region)});
    } else {
      proven_.insert(std::move(key));
    }
  }

  const auto rewrite = [&pairs](const Failure& failure) { return pairs.RewriteOf(failure.claim.before); };
  std::stable_sort(failures.begin(), failures.end(), [&](const Failure& a, const Failure& b) {
    // What stands for itself is broken by whatever broke its operands; the graph's order decides among equals.
    const auto rank = [&](const Failure& f) {
      return rewrite(f) == 0 ? std::numeric_limits<int64_t>::max() : rewrite(f);
    };
    return std::pair(rank(a), extractor.Order(a.claim.before)) < std::pair(rank(b), extractor.Order(b.claim.before));
  });
  for (Failure& failure : failures) {
    absl::flat_hash_set<const Value*> blocked;
    std::vector<const Value*> free = failure.region.free;
    bool cleared = false;
    for (int step = 0; step < kMaxGrowth && !free.empty() && !cleared; ++step) {
      blocked.insert(free.begin(), free.end());
      FF_ASSIGN_OR_RETURN(Region grown, extractor.Extract(failure.claim, blocked));
      FF_ASSIGN_OR_RETURN(const std::optional<std::string> difference,
                          FindDifference(*grown.before, *grown.after, pass.relation(), cases));
      cleared = !difference.has_value();
      free = grown.free;
      if (cleared || failure.evaluated) continue;
      failure = {failure.claim, *difference, std::move(grown)};
    }
    if (cleared) continue;
    violation.rewrite = rewrite(failure);
    violation.before = DescribeValue(pairs.before(), failure.claim.before);
    violation.after = DescribeValue(pairs.after(), failure.claim.after);
    violation.detail = failure.detail;
    violation.region =
        absl::StrCat("// before\n", ir::Print(*failure.region.before), "// after\n", ir::Print(*failure.region.after));
    return violation;
  }
  return std::nullopt;
}

absl::StatusOr<PassProof> Prover::ProvePass(const Pass& pass, Graph* graph, int64_t max_rewrites) {
  passes::PassContext context(pass.name(), options_, max_rewrites);
  const Correspondence pairs(graph, [&context] { return context.rewrites(); });
  PassProof proof;
  FF_ASSIGN_OR_RETURN(proof.record, RunPass(pass, graph, &context));
  const absl::Time start = absl::Now();
  Violation violation{.pass = std::string(pass.name()), .relation = pass.relation()};
  if (!proof.record.changed) {
    if (!StructurallyEqual(pairs.before(), *graph)) {
      violation.detail = "it says that it changed nothing, and changed the graph";
      proof.violation = std::move(violation);
    }
  } else if (pass.relation() == Relation::kRestructured) {
    FF_ASSIGN_OR_RETURN(const std::optional<std::string> difference, CompareRows(pairs.before(), *graph, proof_.seed));
    proof.claims = proof.regions = proof.evaluated = 1;
    if (difference.has_value()) {
      violation.rewrite = proof.record.rewrites;
      violation.detail = *difference;
      proof.violation = std::move(violation);
    }
  } else {
    FF_ASSIGN_OR_RETURN(proof.violation, CheckClaims(pass, pairs, &proof));
  }
  proof.duration = absl::Now() - start;
  return proof;
}

absl::StatusOr<std::optional<std::string>> Prover::CheckWhole(const Graph& before, const Graph& after,
                                                              bool identical) const {
  if (IsStepGraph(after) && !IsStepGraph(before)) return CompareRows(before, after, proof_.seed + 1);
  const std::vector<Case> cases = MakeCases(before, 1, proof_.seed + 1);
  if (identical) return FindDifference(before, after, Relation::kIdentical, cases);
  return FindWideDifference(before, after, cases);
}

absl::StatusOr<ProofReport> Prover::Prove(absl::Span<const std::unique_ptr<Pass>> passes, Graph* graph) {
  FF_RETURN_IF_ERROR(CheckOptions(options_));
  FF_RETURN_IF_ERROR(ir::Verify(*graph));
  std::unique_ptr<Graph> original = graph->Clone();
  ProofReport report;
  bool changed = false;
  bool identical = true;
  const auto check_whole = [&](const Graph& result) -> absl::Status {
    if (!proof_.whole || !changed) return absl::OkStatus();
    const absl::Time start = absl::Now();
    FF_ASSIGN_OR_RETURN(const std::optional<std::string> difference, CheckWhole(*original, result, identical));
    report.whole += absl::Now() - start;
    if (difference.has_value()) report.violation = Violation{.detail = *difference};
    return absl::OkStatus();
  };
  for (const auto& pass : passes) {
    const bool may_code = pass->relation() == Relation::kNarrowed && !options_.quantize.empty();
    const std::unique_ptr<Graph> before = may_code ? graph->Clone() : nullptr;
    FF_ASSIGN_OR_RETURN(PassProof proof, ProvePass(*pass, graph));
    // Codes of whatever values pass through a whole graph lose some of each: it is another function from here on, and
    // what is compared as a whole ends before the pass and begins anew after it.
    if (may_code && CodedLayers(*graph) > CodedLayers(*before)) {
      FF_RETURN_IF_ERROR(check_whole(*before));
      original = graph->Clone();
      changed = false;
      identical = true;
    } else if (proof.record.changed) {
      changed = true;
      identical &= pass->relation() == Relation::kIdentical;
    }
    if (proof.violation.has_value()) report.violation = proof.violation;
    if (after_) after_(static_cast<int>(report.passes.size()), proof, *graph);
    report.passes.push_back(std::move(proof));
    if (report.violation.has_value()) return report;
  }
  FF_RETURN_IF_ERROR(check_whole(*graph));
  return report;
}

absl::StatusOr<Bisection> Prover::Bisect(absl::Span<const std::unique_ptr<Pass>> passes, const Graph& first) {
  FF_RETURN_IF_ERROR(CheckOptions(options_));
  // The first pass that breaks: by its own claims, else by the whole graph after it.
  std::unique_ptr<Graph> graph = first.Clone();
  std::unique_ptr<Graph> original = first.Clone();  // what the whole graph is compared with
  bool identical = true;
  for (size_t i = 0; i < passes.size(); ++i) {
    const Pass& pass = *passes[i];
    const std::unique_ptr<Graph> before = graph->Clone();
    FF_ASSIGN_OR_RETURN(PassProof proof, ProvePass(pass, graph.get()));
    if (!proof.violation.has_value() && CodedLayers(*graph) > CodedLayers(*before)) {  // as in Prove
      original = graph->Clone();
      identical = true;
      continue;
    }
    if (proof.record.changed) identical &= pass.relation() == Relation::kIdentical;
    const auto broken = [&](const PassProof& limited, const Graph& result) -> absl::StatusOr<std::optional<Violation>> {
      if (limited.violation.has_value()) return limited.violation;
      if (!limited.record.changed) return std::nullopt;
      FF_ASSIGN_OR_RETURN(const std::optional<std::string> difference, CheckWhole(*original, result, identical));
      if (!difference.has_value()) return std::nullopt;
      return Violation{.pass = std::string(pass.name()), .relation = pass.relation(), .detail = *difference};
    };
    FF_ASSIGN_OR_RETURN(std::optional<Violation> violation, broken(proof, *graph));
    if (!violation.has_value()) continue;
    Bisection found{.pass_index = static_cast<int>(i), .rewrite = proof.record.rewrites, .violation = *violation};
    int64_t good = 0;  // after so many rewrites the graph is right; after found.rewrite it is not
    while (found.rewrite - good > 1) {
      const int64_t middle = good + (found.rewrite - good) / 2;
      const std::unique_ptr<Graph> limited = before->Clone();
      FF_ASSIGN_OR_RETURN(const PassProof half, ProvePass(pass, limited.get(), middle));
      FF_ASSIGN_OR_RETURN(violation, broken(half, *limited));
      if (violation.has_value()) {
        found.rewrite = middle;
        found.violation = *std::move(violation);
      } else {
        good = middle;
      }
    }
    return found;
  }
  return absl::NotFoundError("every pass keeps its relation, and the whole graph is what it was");
}

}  // namespace flashflow::proof
