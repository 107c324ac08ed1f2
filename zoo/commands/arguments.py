"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

StubArgument = Annotated[str, typer.Argument(metavar="STUB", help="such as zoo:minilm-l6-animals-base")]
VersionArgument = Annotated[str, typer.Argument(metavar="STUB", help="with its version, such as zoo:NAME@v3")]
