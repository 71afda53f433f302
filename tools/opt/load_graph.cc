#include "tools/opt/load_graph.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::tools {
namespace {

constexpr char kExporter[] = "_main/python/export_fx_graph";

absl::Status Export(const std::string& model, const std::string& exporter, const std::string& out) {
  std::vector<std::string> words = {exporter, "--model", model, "--out", out};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const auto free_actions = absl::MakeCleanup([&actions] { posix_spawn_file_actions_destroy(&actions); });
  // Our standard output is the graph's; what it prints there is the file's name, of use to nobody.
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, exporter.c_str(), &actions, nullptr, argv.data(), environ);
  if (error != 0) return absl::UnavailableError(absl::StrCat("cannot run ", exporter, ": ", std::strerror(error)));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return absl::InternalError(absl::StrCat("waiting for the exporter: ", std::strerror(errno)));
  }
  if (status != 0) return absl::InvalidArgumentError(absl::StrCat("\"", model, "\" cannot be exported"));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ir::Graph>> LoadFile(const std::string& path) {
  FF_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  auto graph = path.ends_with(".json") ? frontend::ImportGraph(text) : ir::Parse(text);
  if (graph.ok()) return graph;
  return absl::Status(graph.status().code(),
                      absl::StrCat(path, ":", path.ends_with(".json") ? " " : "", graph.status().message()));
}

}  // namespace

std::string FindExporter(const std::string& program) {
  std::vector<std::string> roots = {absl::StrCat(program, ".runfiles")};
  if (const char* folder = std::getenv("RUNFILES_DIR"); folder != nullptr) roots.push_back(folder);
  // Where the program itself lies among some other program's files.
  if (const size_t at = program.find(".runfiles/"); at != std::string::npos) {
    roots.push_back(program.substr(0, at + 9));
  }
  for (const std::string& root : roots) {
    std::error_code error;
    const std::filesystem::path path = std::filesystem::absolute(std::filesystem::path(root) / kExporter, error);
    if (!error && std::filesystem::exists(path, error)) return path.string();
  }
  return "";
}

absl::StatusOr<std::unique_ptr<ir::Graph>> LoadGraph(const std::string& what, const std::string& exporter) {
  if (what.ends_with(".ffir") || what.ends_with(".json")) return LoadFile(what);
  if (exporter.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        what,
        " is no .ffir or .json file, and the program that exports models is not beside this one: start it as "
        "./bazelw run //tools:opt, or export the model first"));
  }
  std::error_code error;
  std::string folder = (std::filesystem::temp_directory_path(error) / "flashflow_graph_XXXXXX").string();
  if (error || mkdtemp(folder.data()) == nullptr) return absl::UnavailableError("cannot make a temporary folder");
  const auto remove = absl::MakeCleanup([&folder] {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  });
  const std::string json = absl::StrCat(folder, "/graph.json");
  FF_RETURN_IF_ERROR(Export(what, exporter, json));
  return LoadFile(json);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (file) text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return std::move(text).str();
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  if (path == "-") {
    std::cout << text << std::flush;
    return std::cout ? absl::OkStatus() : absl::UnavailableError("cannot write to the standard output");
  }
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace flashflow::tools
