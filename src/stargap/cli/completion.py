"""The command that lets a shell complete the others."""

from __future__ import annotations

from typing import Literal

from cyclopts import App

__all__ = ["add_commands"]


def add_commands(app: App) -> None:
    """Add the command of this module to the command line."""

    @app.command
    def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
        """Print a script that lets a shell complete commands and options: source it, or keep it where shells look.

        For bash: stargap completion bash > ~/.local/share/bash-completion/completions/stargap

        Parameters
        ----------
        shell
            The shell that is to complete.
        """
        print(app.generate_completion(shell=shell), end="")
