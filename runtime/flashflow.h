// FlashFlow for C++ programs: opens an engine file (.ff) and turns prompts into tokens. Needs no Python.
//
//   #include "runtime/flashflow.h"
//
//   absl::Status Greet() {
//     namespace ff = flashflow::runtime;
//     absl::StatusOr<std::unique_ptr<ff::Engine>> engine = ff::Engine::Open("model.ff");
//     if (!engine.ok()) return engine.status();
//     absl::StatusOr<int64_t> request = (*engine)->Submit({19556, 28}, {.temperature = 0, .max_tokens = 16});
//     if (!request.ok()) return request.status();
//     while ((*engine)->HasWork()) {
//       absl::StatusOr<std::vector<ff::TokenEvent>> events = (*engine)->Step();
//       if (!events.ok()) return events.status();
//       for (const ff::TokenEvent& event : *events) Use(event.token);
//     }
//     return absl::OkStatus();
//   }
//
// Any number of requests may be submitted, at any time and from any thread: each Step runs as many of them together as
// EngineOptions::max_batch allows. Nothing is printed: messages go to absl's log.
#ifndef RUNTIME_FLASHFLOW_H_
#define RUNTIME_FLASHFLOW_H_

#include "runtime/api/engine.h"            // IWYU pragma: export
#include "runtime/core/sampling_params.h"  // IWYU pragma: export

#endif  // RUNTIME_FLASHFLOW_H_
