from pathlib import Path

import pytest

from ddim_edit.io.atomic import atomic


def test_the_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise failure
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_an_os_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match=r"folder|directory"), atomic(path) as temporary:
        temporary.write_text("text")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
