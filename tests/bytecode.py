"""Where Python keeps the bytecode of what tests start, on machines that have it write none beside the sources.

Without any, each program that a test starts compiles anew all that it imports, which for a client of Kubernetes are a
thousand files.
"""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".pytest_cache" / "bytecode"
BYTECODE = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(FOLDER)}
"""What to start a program with. To Python, empty is unset."""
