"""The API against its own OpenAPI description: every check of schemathesis, on requests that it makes up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.registry.builders import bert, small
from tests.registry.conftest import Program

# A description says which texts are stubs, digests or manifests only up to a point; past it 400 and 422 are the
# right answers. Whatever else may be wrong with an answer fails.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = [
  "2xx", "3xx", "400", "401", "403", "404", "409", "412", "413", "416", "422"
]
"""


@pytest.mark.slow
def test_row_34_no_made_up_request_breaks_the_contract(program: Program, tmp_path: Path) -> None:
    with program.client() as client:
        bert().publish(client)
        small().publish(client)
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run"]
    options = ["--checks", "all", "-n", "25", "--seed", "1", "--generation-database", "none", "--no-color"]
    done = subprocess.run(
        [*command, f"{program.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-8_000:]
    assert re.search(r"Tested: (2\d|[3-9]\d)", done.stdout)
