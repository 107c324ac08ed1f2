"""huggingface_hub and transformers as PyPI has them, with HF_ENDPOINT set to this registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.models import runnable
from tests.registry.builders import LONG, Folder, digest_of
from tests.zoo.live_registry import serving

pytestmark = pytest.mark.slow
NAME, SCOPED = "bert-tiny-squad-pruned80.4block", "@acme/private--bert."
ID, SCOPED_ID = NAME, "acme/private-HbertP"
LONG_ID = "L.nlp.question_answering.bert-base.pytorch.huggingface.squad.pruned80_quant-none-vnni"
SAVE = """
import sys, torch
from pathlib import Path
from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast
torch.manual_seed(3)
folder = Path(sys.argv[1])
words = "[PAD] [UNK] [CLS] [SEP] [MASK] who feeds the otters ada every morning ?".split()
(folder / "vocab.txt").write_text("\\n".join(words))
BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
BertForQuestionAnswering(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
"""
LOAD = """
import json, sys, torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
name, more = sys.argv[1], dict(revision=sys.argv[2]) if len(sys.argv) > 2 else {}
tokenizer = AutoTokenizer.from_pretrained(name, **more)
model = AutoModelForQuestionAnswering.from_pretrained(name, **more).eval()
with torch.no_grad():
    logits = model(**tokenizer("who feeds the otters ?", "ada feeds the otters every morning", return_tensors="pt"))
print(json.dumps(logits.start_logits.tolist()))
"""


@dataclass
class Hub:
    """Runs the library's programs with their endpoint set to a registry, and a home of their own."""

    url: str
    home: Path
    offline: bool = False

    def run(self, *command: str | Path, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"HF_HUB_OFFLINE": "1"} if self.offline else {}
        done = subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done

    def python(self, code: str, *arguments: str | Path) -> Any:
        """What the code's last line prints, as JSON."""
        return json.loads(self.run(sys.executable, "-c", code, *arguments).stdout.splitlines()[-1])

    def ask(self, expression: str) -> Any:
        """An expression over huggingface_hub, as JSON."""
        return self.python(
            f"import json; from huggingface_hub import *; api = HfApi(); print(json.dumps({expression}))"
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    Hub("http://127.0.0.1:9", folder, offline=True).run(sys.executable, "-c", SAVE, folder)
    return folder


@pytest.fixture(scope="module")
def model(trained: Path) -> Folder:
    folder = runnable()
    folder.name, folder.alias = f"zoo:{NAME}", None
    folder.files = {path: entry for path, entry in folder.files.items() if entry[0] != "training"}
    for path in trained.iterdir():
        if path.is_file():
            folder.files[f"training/{path.name}"] = ("training", path.read_bytes())
    folder.files["training/recipe.md"] = ("training", b"the recipe that made the checkpoint")
    return folder


@pytest.fixture(scope="module")
def registry(model: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as url:
        with httpx.Client(base_url=url) as client:
            assert model.publish(client, tags=["prod"]).status_code == 201
            newer = Folder(model.name, {**model.files, "model.md": ("card", b"# newer")}, metadata=model.metadata)
            assert newer.publish(client).status_code == 201
            for name in (f"zoo:{SCOPED}", LONG):
                assert Folder(name, model.files, metadata=model.metadata).publish(client).status_code == 201
        yield url


@pytest.fixture
def hub(registry: str, tmp_path: Path) -> Hub:
    return Hub(registry, tmp_path)


def _places(model: Folder) -> dict[str, bytes]:
    """The repository's files: trained ones at the top, unless something else lies there."""
    files = {path: data for path, (_, data) in model.files.items()}
    placed = {path: data for path, data in files.items() if not path.startswith("training/")}
    placed["README.md"] = placed.pop("model.md")
    for path, data in files.items():
        if path.startswith("training/"):
            top = path.removeprefix("training/")
            placed[path if top in placed else top] = data
    return placed


def test_a_snapshot_holds_every_file_and_verifies(hub: Hub, model: Folder) -> None:
    folder = Path(hub.ask(f"snapshot_download({ID!r}, revision='v1')"))
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == _places(model)
    assert found["training/recipe.md"] != found["recipe.md"]
    checked = hub.run(Path(sys.executable).with_name("hf"), "cache", "verify", ID, "--revision", "v1")
    assert "sha256" in checked.stdout.lower() or "verified" in checked.stdout.lower()


@pytest.mark.parametrize("repo_id", [ID, SCOPED_ID, LONG_ID])
def test_every_kind_of_name_has_an_id(hub: Hub, model: Folder, repo_id: str) -> None:
    path = Path(hub.ask(f"hf_hub_download({repo_id!r}, 'model.onnx', subfolder='deployment')"))
    assert path.read_bytes() == model.files["deployment/model.onnx"][1]
    assert path.resolve().name == digest_of(path.read_bytes()).removeprefix("sha256:")


def test_revisions_are_versions_tags_and_commits(hub: Hub, model: Folder) -> None:
    old, new = model.files["model.md"][1].decode(), "# newer"
    refs = hub.ask(
        f"(lambda refs: [[ref.target_commit for ref in refs.branches], {{t.name: t.target_commit for t in refs.tags}}])"
        f"(api.list_repo_refs({ID!r}))"
    )
    (main,), tags = refs
    assert tags == {"v1": tags["v1"], "prod": tags["v1"], "v2": main}
    for revision, text in {"main": new, "v1": old, "prod": old, tags["v1"]: old, main: new}.items():
        path = hub.ask(f"hf_hub_download({ID!r}, 'README.md', revision={revision!r})")
        assert Path(path).read_text() == text
        assert api_sha(hub, revision) == (main if text == new else tags["v1"])


def api_sha(hub: Hub, revision: str) -> str:
    return str(hub.ask(f"api.model_info({ID!r}, revision={revision!r}).sha"))


def test_transformers_loads_a_model_and_again_offline_without_the_registry(hub: Hub, trained: Path) -> None:
    expected = hub.python(LOAD, trained)
    assert hub.python(LOAD, ID) == expected
    assert hub.python(LOAD, SCOPED_ID, "v1") == expected
    gone = Hub("http://127.0.0.1:9", hub.home, offline=True)
    assert gone.python(LOAD, ID) == expected
    assert gone.python(LOAD, SCOPED_ID, "v1") == expected


def test_the_hub_is_asked_what_is_there(hub: Hub, model: Folder) -> None:
    assert sorted(hub.ask("[m.id for m in api.list_models(search='squad')]")) == sorted([ID, LONG_ID])
    assert hub.ask("[m.id for m in api.list_models(author='acme', limit=5)]") == [SCOPED_ID]
    facts = hub.ask(
        f"(lambda m: [m.pipeline_tag, m.card_data.license, m.private, len(m.siblings), m.siblings[0].lfs.sha256])"
        f"(api.model_info({ID!r}, revision='v1', files_metadata=True))"
    )
    first = min(_places(model))
    assert facts[:4] == ["question-answering", "apache-2.0", False, len(_places(model))]
    assert f"sha256:{facts[4]}" == digest_of(_places(model)[first])
    assert hub.ask(f"api.model_info({ID!r}, expand=['sha', 'siblings']).sha") == api_sha(hub, "main")
    assert sorted(hub.ask(f"[e.path for e in api.list_repo_tree({ID!r}, 'deployment')]")) == [
        "deployment/config.json",
        "deployment/model.onnx",
        "deployment/tokenizer.json",
    ]
    assert hub.ask(f"[file_exists({ID!r}, 'config.json'), file_exists({ID!r}, 'no.json')]") == [True, False]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("hf_hub_download('nobody/nothing', 'config.json')", "RepositoryNotFoundError"),
        (f"hf_hub_download({ID!r}, 'none.json')", "RemoteEntryNotFoundError"),
        (f"hf_hub_download({ID!r}, 'config.json', revision='v9')", "RevisionNotFoundError"),
        (f"hf_hub_download({ID!r}, 'config.json', revision='refs/pr/1')", "RevisionNotFoundError"),
        (f"snapshot_download({ID!r}, revision={'0' * 40!r})", "RevisionNotFoundError"),
        ("api.model_info('Upper-Case')", "RepositoryNotFoundError"),
    ],
)
def test_what_is_not_there_raises_the_library_s_own_error(hub: Hub, call: str, error: str) -> None:
    done = hub.run(sys.executable, "-c", f"from huggingface_hub import *; api = HfApi(); {call}", succeeds=False)
    assert f".{error}:" in done.stderr


def test_the_download_command(hub: Hub, model: Folder) -> None:
    hub.run(Path(sys.executable).with_name("hf"), "download", ID, "config.json", "--local-dir", "here")
    assert (hub.home / "here/config.json").read_bytes() == model.files["training/config.json"][1]
