"""What users may import; a change here is a change of the public interface."""

from __future__ import annotations

import inspect

import engine
import zoo
import zoo.train


def test_names_of_zoo() -> None:
    functions = {"publish", "publish_benchmark", "pull", "resolve", "search"}
    classes = {"Manifest", "ProgressEvent", "Recipe", "Role", "Settings", "Stub", "ZooWarning"}
    assert functions | classes == {name for name in zoo.__all__ if not name.endswith("Error")}


def test_names_of_zoo_train() -> None:
    assert zoo.train.__all__ == ["ModelTeacher", "RecipeSession"]


def test_names_of_engine() -> None:
    own = {"CompiledModel", "Pipeline", "UnsupportedNode", "compile"}
    of_others = {"Engine", "InferenceSession", "Scheduler", "compile_model"}
    assert own | of_others == {name for name in engine.__all__ if not name.endswith("Error")}


def test_every_public_name_is_there_and_documented() -> None:
    for package in (zoo, engine, zoo.train):
        assert package.__all__ == sorted(package.__all__)
        for name in package.__all__:
            assert inspect.getdoc(getattr(package, name)), f"{package.__name__}.{name} has no docstring"


def test_signatures_that_users_rely_on() -> None:
    assert list(inspect.signature(zoo.pull).parameters)[:2] == ["stub", "role"]
    assert list(inspect.signature(zoo.publish).parameters)[:2] == ["folder", "stub"]
    assert list(inspect.signature(engine.compile).parameters) == ["source", "num_cores", "num_streams", "cached"]
    assert list(inspect.signature(engine.CompiledModel.run).parameters)[:2] == ["self", "inputs"]
    assert {"task", "model_path", "num_cores"} <= set(inspect.signature(engine.Pipeline.create).parameters)
