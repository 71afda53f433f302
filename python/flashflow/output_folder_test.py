import os

import pytest

from flashflow.errors import InvalidArgumentError
from flashflow.output_folder import make_output_folder


def test_folder_is_made_and_may_be_there(tmp_path):
    for _ in range(2):
        make_output_folder(tmp_path / "a" / "b", "--out")
    assert (tmp_path / "a" / "b").is_dir()


def test_file_in_the_way_is_named_with_the_flag(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidArgumentError, match=f"^--out: the folder {folder} cannot be made: "):
            make_output_folder(folder, "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_of_others_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidArgumentError, match=f"no file can be made in the folder {tmp_path}"):
        make_output_folder(tmp_path, "--out")
