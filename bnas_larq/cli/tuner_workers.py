"""`bnas-larq worker`: a process that runs trials of a search by keras-tuner."""

from __future__ import annotations

from pathlib import Path

import click

from bnas_larq.cli.options import opened
from bnas_larq.cli.tuner_processes import end_with_parent
from bnas_larq.errors import RunError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--with-parent", is_flag=True, hidden=True)
def command(folder: Path, with_parent: bool) -> None:
    """Run trials for the search by keras-tuner in the run FOLDER, until its chief has no more.

    Needs the variables KERASTUNER_TUNER_ID (another name for each worker), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT. The chief is `bnas-larq search` or `run` itself, started with
    KERASTUNER_TUNER_ID=chief and the same address; all of them see the same FOLDER.
    """
    if with_parent:
        end_with_parent()
    workflow = opened(folder, lock=False)
    if workflow.recipe.search.searcher != "tuner":
        raise RunError(
            "Only a search by keras-tuner has workers. "
            f"Received: {folder}, whose search.searcher is {workflow.recipe.search.searcher}."
        )
    from bnas_larq.cli.tuner_trials import tuner_search
    from bnas_larq.data import data_errors
    from bnas_larq.search.tuning.searcher import role_of_process

    role = role_of_process()
    if role != "worker" and not with_parent:
        raise RunError(
            f"A worker needs to know who it is and where its chief listens. Received: {role}. "
            "Set KERASTUNER_TUNER_ID to a name of its own, such as worker-1, and "
            "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT as for the chief."
        )
    with data_errors():
        tuner_search(workflow).take_part(workflow.folder / "search")
