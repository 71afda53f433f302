"""generated_page: a page of docs/ that must be what its generator prints."""

load("@bazel_skylib//rules:diff_test.bzl", "diff_test")

def generated_page(name, generator, page):
    """A test that the page is up to date; where it is not, the test says how to write it again.

    Args:
      name: the test.
      generator: a label of this package, of a binary that prints the page.
      page: the page's name in docs/, a file that docs/BUILD.bazel exports to this package.
    """
    native.genrule(
        name = name + "_printed",
        testonly = True,
        srcs = [generator],  # no tool: that would compile it and its libraries a second time
        outs = [page],
        cmd = "$(location %s) > $@" % generator,
    )
    diff_test(
        name = name,
        size = "small",
        failure_message = "Write it again: ./bazelw run //%s%s > docs/%s" % (native.package_name(), generator, page),
        file1 = "//docs:" + page,
        file2 = name + "_printed",
    )
