"""`bnas-larq verify-faces`: whether two images show the same person."""

from __future__ import annotations

import click

from bnas_larq.cli.options import NAME_OR_PATH
from bnas_larq.console import print_result


@click.command()
@click.argument("run", type=NAME_OR_PATH)
@click.argument("first", type=NAME_OR_PATH)
@click.argument("second", type=NAME_OR_PATH)
def command(run: str, first: str, second: str) -> None:
    """Tell whether the images FIRST and SECOND show the same person, by each network of RUN, a
    finished run of a recipe with the section `faces` (such as faces-orl).

    The distance is the squared one of embeddings of length 1, 0 to 4; below the threshold, which
    was best for the run's own pairs, it is the same person.
    """
    from bnas_larq.run.face_study import compare_images

    for name, verdict in compare_images(run, first, second).items():
        said = "same person" if verdict.same else "different people"
        print_result(
            f"{name}: {said} (distance {verdict.distance:.3f}, threshold {verdict.threshold:.2f})"
        )
