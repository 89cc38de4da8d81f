"""`--storage KEY=VALUE`, which every command has: how addresses are reached."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "--storage",
        action="append",
        metavar="KEY=VALUE",
        help="how addresses (s3://, gs://, az://) are reached, such as endpoint=http://localhost:9000 or region=...; "
        "again for each; before AWS_ENDPOINT_URL and what else the environment says",
    )


@contextmanager
def storage_of(args: argparse.Namespace) -> Iterator[None]:
    """Use the options of a command line while it runs."""
    from data_loaders.storage.options import given_storage, read_options, use_storage

    if not args.storage:
        yield
        return
    before = given_storage()
    use_storage(read_options(args.storage))
    try:
        yield
    finally:
        use_storage(before)
