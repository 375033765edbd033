"""``meshwright policy``: try policy before it is applied, and have it written from what was seen."""

import argparse

from meshwright.edge import generate_command
from meshwright.edge.access import suite_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their flags."""
    verbs = parser.add_subparsers(dest="verb", metavar="test|generate", required=True)
    test = verbs.add_parser(
        "test",
        help="is everybody let in, and kept out, who is expected to be? no cluster needed",
        description="Run files of expected cases against manifests, and say why something is otherwise.",
    )
    suite_command.add_arguments(test)
    test.set_defaults(run_verb=suite_command.run)
    generate = verbs.add_parser(
        "generate",
        help="write the policy that lets in who was seen calling, in audit mode first",
        description="Write Servers, MeshTLSAuthentications and AuthorizationPolicies for who was seen calling the "
        "workloads of a namespace, and say what was not seen. Read it before you apply it.",
    )
    generate_command.add_arguments(generate)
    generate.set_defaults(run_verb=generate_command.run)


def run(args: argparse.Namespace) -> int:
    """Return the exit status of the verb."""
    status: int = args.run_verb(args)
    return status
