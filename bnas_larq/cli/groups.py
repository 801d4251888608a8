"""Click groups that suggest the nearest command, and import a command only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import NamedTuple

import click

from bnas_larq.errors import nearest


class LazyCommand(NamedTuple):
    """Where a command is defined, and its line in `--help`.

    `target` is `module` or `module:attribute`; without an attribute it is `command`.
    """

    target: str
    help: str

    def load(self) -> click.Command:
        """Import the command's module and return its click command."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute or "command")


class HintingGroup(click.Group):
    """A click group that answers an unknown command with the nearest one."""

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """As click's, but an unknown command is a `click.UsageError` with a hint."""
        name, known = args[0], self.list_commands(ctx)
        looks_like_option = not name[:1].isalnum()
        if self.get_command(ctx, name) is None and not looks_like_option:
            raise click.UsageError(
                f"Commands are listed in --help. Received: {name!r}; {nearest(name, known)}", ctx
            )
        return super().resolve_command(ctx, args)


class LazyGroup(HintingGroup):
    """A group whose commands are listed in a registry and imported one by one when called."""

    def __init__(self, *args, registry: Mapping[str, LazyCommand], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.registry = registry

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the registry: the order of work, not of the alphabet."""
        return list(self.registry)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if it is not registered."""
        entry = self.registry.get(cmd_name)
        return entry.load() if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in `--help`, from the registry's lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.registry.items()])
