"""The notebooks: each .ipynb is its .py, and the .py runs in a fresh kernel of this very interpreter.

After a change of a script: jupytext --to ipynb notebooks/NAME.py && jupyter execute --inplace notebooks/NAME.ipynb
"""

import gc
import warnings
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
LARGEST = 200_000
"""Bytes of a committed notebook: one small figure, no more."""


def code(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(
        str(output.get("text", "")) for cell in notebook.cells for output in cell.get("outputs", []) if output
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_its_script_executed_without_error(path):
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert code(notebook) == code(jupytext.read(path))
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))
    assert path.with_suffix(".ipynb").stat().st_size < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_runs_in_a_fresh_kernel(path):
    """Half a minute to a minute: fits are real, and compiled first when the cache is cold."""
    # Without folders to search, 'python3' is the kernel of the running interpreter, whatever the user has installed.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    notebook = jupytext.read(path)
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute(cleanup_kc=True)  # the manager is ours, so that the client would leave its kernel running
    assert "UNDECIDED" in text_of(notebook)
    assert "image/png" in notebook.cells[-1].outputs[-1].data
    # jupyter leaves sockets to be collected
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del client, manager
        gc.collect()
