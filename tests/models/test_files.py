"""Files and folders that are written whole or not at all, whatever is there before."""

from __future__ import annotations

import json
import os
import threading

import pytest

from fusedlm.data.large_file import large_file
from fusedlm.models import atomic_folder
from fusedlm.models.files import whole_file, write_json, write_text


def test_a_failure_leaves_the_file_before_and_nothing_else(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    with pytest.raises(RuntimeError), whole_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["x.json"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    for name in ("there", "not yet"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / name)
        if name == "there":
            (tmp_path / name).write_text("old")
        write_text(link, "new")
        assert link.is_symlink() and (tmp_path / name).read_text() == "new"
    folder, link = tmp_path / "folder", tmp_path / "link to folder"
    folder.mkdir()
    link.symlink_to(folder)
    with atomic_folder(link) as new:
        (new / "config.json").write_text("{}")
    assert link.is_symlink() and (folder / "config.json").exists()
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["there", "link to there", "not yet", "link to not yet", "folder", "link to folder"]
    )


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with large_file(pipe) as partial:
        partial.write_text("through")
    reader.join(30)
    assert read == ["through"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_what_stands_in_the_way_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file or nothing"):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError, match=r"its folder does not exist.*no/x\.json"):
        write_json(tmp_path / "no" / "x.json", {})
