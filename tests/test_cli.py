"""The command itself: what it offers, what it says of itself, and what it does not import."""

import subprocess
import sys

import pytest

from meshwright import __version__
from meshwright.cli import COMMANDS, main


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"meshwright {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    assert all(f"  {name}" in text and command.summary in text for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_with_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0

    text = capsys.readouterr().out
    assert len(COMMANDS[name].examples) == 2
    assert all(line in text and what in text for line, what in COMMANDS[name].examples)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["compiel"], "invalid choice"),
        (["compile"], "required: DIR"),
        (["compile", "x", "--proxy", "shop"], "shop/any"),
        (["compile", "x", "--out", "y"], "belong together"),
        (["dev", "x", "--once"], "--tour"),
        (["dev", "-"], "meshwright compile -"),
        (["dev", "x", "--xds-port", "99999"], "0 to 65535"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_right(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compile", "dev"])
def test_tools_for_a_folder_need_no_cluster_client(name: str) -> None:
    program = (
        "import sys; from meshwright.cli import main; "
        f"assert main([{name!r}, '--help']) == 0; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'kopf', 'kubernetes_asyncio'}), 'end')"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.splitlines()[-1] == "end"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    program = f"{sys.executable} -m meshwright.cli compile examples/ | head -c 10"

    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert (done.stdout, "Traceback" in done.stderr, "BrokenPipe" in done.stderr) == ("---\napiVer", False, False)
