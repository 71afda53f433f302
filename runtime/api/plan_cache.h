// Plans that were compiled when an engine was opened, kept in the user's cache folder.
#ifndef RUNTIME_API_PLAN_CACHE_H_
#define RUNTIME_API_PLAN_CACHE_H_

#include <optional>
#include <string>
#include <string_view>

#include "compiler/plan/plan.h"

namespace flashflow::runtime {

// A folder of plan files, named by the graph, the device and the build that made them: another build's compiler may
// make another plan. What is in it is as untrusted as an engine file; whatever is damaged or foreign is not there.
class PlanCache {
 public:
  // The user's, or none where there is no home folder.
  static PlanCache OfUser();
  explicit PlanCache(std::string folder) : folder_(std::move(folder)) {}

  // The plan of the graph with this hash for the device of this key.
  std::optional<plan::Plan> Find(std::string_view graph_sha256, std::string_view device_key) const;
  // Keeps the plan under its graph_sha256 and device_key; where that fails, it is logged and is no error.
  void Keep(const plan::Plan& plan) const;

 private:
  std::string PathOf(std::string_view graph_sha256, std::string_view device_key) const;

  std::string folder_;  // empty: there is none
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_PLAN_CACHE_H_
