#include "tools/viz/render.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "tools/opt/load_graph.h"

extern char** environ;

namespace flashflow::tools {

namespace fs = std::filesystem;

absl::Status RenderDot(const std::string& dot, const std::string& format, const std::string& path) {
  std::string folder = (fs::temp_directory_path() / "flashflow-viz-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot make a folder for Graphviz: ", std::strerror(errno)));
  }
  const absl::Cleanup remove = [&folder] {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  };
  const std::string in = absl::StrCat(folder, "/in.dot"), out = absl::StrCat(folder, "/out"),
                    said = absl::StrCat(folder, "/said");
  FF_RETURN_IF_ERROR(WriteFile(in, dot));
  std::string words[] = {"dot", absl::StrCat("-T", format), "-o", out, in};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const absl::Cleanup destroy = [&actions] { posix_spawn_file_actions_destroy(&actions); };
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, said.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t process = 0;
  if (const int error = posix_spawnp(&process, "dot", &actions, nullptr, arguments, environ); error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("Graphviz's program `dot` cannot be run (", std::strerror(error), "). Install it (apt install ",
                     "graphviz, brew install graphviz, conda install graphviz), or write a .html or .dot file, which ",
                     "need none"));
  }
  int status = 0;
  while (waitpid(process, &status, 0) < 0) {
    if (errno != EINTR) return absl::InternalError(absl::StrCat("lost dot: ", std::strerror(errno)));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::InternalError(absl::StrCat("dot failed: ", ReadFile(said).value_or("and said nothing")));
  }
  FF_ASSIGN_OR_RETURN(const std::string picture, ReadFile(out));
  return WriteFile(path, picture);
}

}  // namespace flashflow::tools
