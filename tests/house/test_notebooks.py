"""The notebooks run from the first cell to the last, as they stand."""

import os
import sys
from pathlib import Path

import pytest
from shares import every

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", every(2, sorted((ROOT / "examples").glob("*.ipynb"), reverse=True)), ids=lambda p: p.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the tests' workers share the cores
    book = nbformat.read(path, 4)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs are not kept"
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
